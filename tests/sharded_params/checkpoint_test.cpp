#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <map>
#include <mutex>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Sharding;

namespace checkpoint_test {
namespace {

using State = std::map<std::string, at::Tensor>;

template <class Sharded>
State state_of(Sharded& sharded) {
  State state;
  sharded.each_parameter([&](auto& name, auto& value) { state[name] = value.clone(); });
  return state;
}

wanpar::ParameterSource from(const State& state) {
  return [&state](const std::string& name, int64_t begin, int64_t end) {
    return state.at(name).flatten().slice(0, begin, end);
  };
}

}  // namespace

TEST_CASE("what is saved from one sharding loads into any other, and into the bare module") {
  State original;
  auto zoo = seeded([] { return Zoo(); });
  for (auto& [name, tensor] : wanpar::named_parameters(zoo)) original[name] = tensor.detach();

  auto pass_on = [](const State& state, int ranks, Sharding sharding) {
    State result;
    wanpar::local::run(ranks, [&](Communicator world) {
      auto module = seeded([] { return Zoo(); });
      {
        at::NoGradGuard no_grad;
        for (auto& parameter : module->parameters()) parameter.fill_(world.rank());
      }
      auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
      sharded.load(from(state));
      auto saved = state_of(sharded);
      if (world.rank() == 0) result = std::move(saved);
    });
    return result;
  };
  auto state = pass_on(original, 4, Sharding::full_shard);
  state = pass_on(state, 2, Sharding::no_shard);
  state = pass_on(state, 3, Sharding::shard_grad_op);
  state = pass_on(state, 1, Sharding::full_shard);
  CHECK(state.size() == original.size());
  for (auto& [name, tensor] : original) {
    INFO(name);
    CHECK(torch::equal(state.at(name), tensor));
  }
}

TEST_CASE("ranks read their own elements only: each once in all") {
  State original;
  auto module = seeded([] { return perceptron(); });
  int64_t total = 0;
  for (auto& [name, tensor] : wanpar::named_parameters(module)) {
    original[name] = tensor.detach();
    total += tensor.numel();
  }
  on_worlds([&](Communicator world) {
    auto sharded = seeded([] { return perceptron(); }) | wanpar::sharded_params({.group = world});
    int64_t read = 0;
    auto source = from(original);
    sharded.load([&](const std::string& name, int64_t begin, int64_t end) {
      read += end - begin;
      return source(name, begin, end);
    });
    auto all = world.all_reduce(at::tensor({read})).get().item<int64_t>();
    require(all == total, fmt::format("{} elements are read, {} there are", all, total));
    for (auto& [name, value] : state_of(sharded)) require_equal(value, original.at(name), name);
    require_error([&] { sharded.load([](auto&, auto, auto) { return at::zeros({1}); }); }, ") was asked for");
  });
}

}  // namespace checkpoint_test
