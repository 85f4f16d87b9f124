#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/module/deferred.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <map>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Sharding;

namespace deferred_test {
namespace {

/// Parameters of more than 64 KiB, initialised in several ways, small ones, and a table that is computed.
struct WideImpl : torch::nn::Module {
  static constexpr int64_t kWidth = 160;

  WideImpl() {
    list = register_module("list", torch::nn::ModuleList());
    for (int i = 0; i < 4; ++i) list->push_back(torch::nn::Linear(kWidth, kWidth));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    random = register_parameter("random", torch::randn({kWidth, kWidth}) / 10);
    orthogonal =
        register_parameter("orthogonal", torch::nn::init::orthogonal_(torch::empty({kWidth, kWidth})));
    auto partly = torch::nn::init::uniform_(torch::empty({kWidth, kWidth}), 0, 0.1);
    {
      torch::NoGradGuard no_grad;
      partly.slice(0, 0, 3).zero_();
    }
    half_zero = register_parameter("half_zero", partly);
    table = register_buffer("table", at::arange(kWidth * kWidth).view({kWidth, kWidth}).to(at::kFloat).sin());
  }

  at::Tensor forward(at::Tensor x) {
    for (size_t i = 0; i < list->size(); ++i) x = list[i]->as<torch::nn::Linear>()->forward(x).relu();
    return norm(x + at::matmul(at::matmul(at::matmul(at::matmul(x, random), orthogonal), half_zero), table));
  }

  torch::nn::ModuleList list{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  at::Tensor random, orthogonal, half_zero, table;
};
TORCH_MODULE(Wide);

}  // namespace

TEST_CASE("a deferred module has shapes but no memory, and computes what is loaded") {
  auto whole = seeded([] { return Wide(); });
  std::map<std::string, at::Tensor> state;
  for (auto& [name, tensor] : wanpar::named_parameters(whole)) state[name] = tensor.detach();
  auto x = at::ones({2, Wide::Impl::kWidth});

  on_worlds([&](Communicator world) {
    for (auto sharding : {Sharding::full_shard, Sharding::no_shard}) {
      auto module = seeded([] { return wanpar::deferred([] { return Wide(); }); });
      size_t held = 0;
      for (auto& [name, tensor] : wanpar::named_parameters(module)) {
        require(tensor.sizes() == state.at(name).sizes() && !tensor.is_meta(), name + " has its shape");
        held += tensor.storage().nbytes();
      }
      require(held < 64 << 10, fmt::format("{} bytes are held", held));

      auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
      require_error([&] { sharded(x); }, "has no values yet; call load()");
      int64_t read = 0;
      sharded.load([&](const std::string& name, int64_t begin, int64_t end) {
        read += end - begin;
        return state.at(name).flatten().slice(0, begin, end);
      });
      if (sharding == Sharding::full_shard)
        require(read * 4 <= sharded.memory().shards, "a rank reads no more than its part");
      require_close(sharded(x), whole(x), 1e-5, "as the whole module");
      sharded(x).sum().backward();
    }
  });
}

TEST_CASE("one rank has the values, the others are deferred") {
  for (auto sharding : {Sharding::full_shard, Sharding::no_shard})
    on_worlds([&](Communicator world) {
      auto whole = seeded([] { return Wide(); });
      auto module =
          seeded([&] { return world.rank() == 0 ? Wide() : wanpar::deferred([] { return Wide(); }); });
      auto sharded =
          module | wanpar::sharded_params({.group = world, .sharding = sharding, .sync_module_states = true});
      std::map<std::string, at::Tensor> expected;
      for (auto& [name, tensor] : wanpar::named_parameters(whole)) expected[name] = tensor.detach();
      sharded.each_parameter([&](auto& name, auto& value) { require_equal(value, expected.at(name), name); });
      auto x = at::ones({2, Wide::Impl::kWidth});
      require_close(sharded(x), whole(x), 1e-5, "as rank 0");
    });
}

TEST_CASE("where rank 0 is the one without values, every rank is told") {
  on_worlds([](Communicator world) {
    auto module = seeded([&] { return world.rank() > 0 ? Wide() : wanpar::deferred([] { return Wide(); }); });
    require_error([&] { module | wanpar::sharded_params({.group = world, .sync_module_states = true}); },
                  "rank 0 has no values to give");
    world.barrier();
  });
}

namespace {

/// Parameters that are pieces of one tensor.
struct CutImpl : torch::nn::Module {
  static constexpr int64_t kWidth = 160;
  CutImpl() {
    auto all = torch::randn({3 * kWidth, kWidth});
    for (int i = 0; i < 3; ++i)
      pieces.push_back(
          register_parameter("piece" + std::to_string(i), all.slice(0, i * kWidth, (i + 1) * kWidth)));
  }
  at::Tensor forward(at::Tensor x) {
    for (auto& piece : pieces) x = at::matmul(x, piece).tanh();
    return x;
  }
  std::vector<at::Tensor> pieces;
};
TORCH_MODULE(Cut);

}  // namespace

TEST_CASE("deferred parameters that are pieces of one tensor get memory of their own") {
  auto whole = seeded([] { return Cut(); });
  std::map<std::string, at::Tensor> state;
  for (auto& [name, tensor] : wanpar::named_parameters(whole)) state[name] = tensor.detach();
  auto x = at::ones({2, CutImpl::kWidth});
  on_worlds([&](Communicator world) {
    for (auto units : {std::vector<std::string>{}, {"piece0", "piece1", "piece2"}}) {
      auto module = seeded([] { return wanpar::deferred([] { return Cut(); }); });
      auto sharded = module | wanpar::sharded_params({.group = world, .units = units});
      sharded.load([&](auto& name, int64_t begin, int64_t end) {
        return state.at(name).flatten().slice(0, begin, end);
      });
      at::NoGradGuard no_grad;
      require_close(sharded(x), whole->forward(x), 1e-5, "what is loaded is computed with");
    }
  });
}

}  // namespace deferred_test
