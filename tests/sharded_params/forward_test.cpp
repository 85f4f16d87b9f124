#include <ATen/autocast_mode.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;
using wanpar::Sharding;

namespace forward_test {
namespace {

at::Tensor random(std::vector<int64_t> shape, int seed = 0) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed + 7));
}

at::Tensor tokens(int64_t length) {
  return at::arange(2 * length).view({2, length}).remainder(ZooImpl::kWords);
}

struct Subject {
  std::string name;
  std::function<Model()> make;
  std::function<at::Tensor(int64_t length)> input;
};

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> all{
      {"zoo", [] { return Model(Zoo().ptr()); }, tokens},
      {"transformer", [] { return Model(AttentionModel().ptr()); },
       [](int64_t n) {
         return random({2, n, 48});
       }},
      {"perceptron", [] { return Model(perceptron().ptr()); },
       [](int64_t n) {
         return random({n, 32});
       }},
      {"TorchScript", [] { return Model(torch::jit::load(TEST_DATA "/attention.pt")); },
       [](int64_t n) {
         return random({1, n, 48});
       }}};
  return all;
}

constexpr Sharding kShardings[] = {Sharding::full_shard, Sharding::shard_grad_op, Sharding::no_shard};

}  // namespace

TEST_CASE("a module with sharded parameters gives what it gives whole: each sharding, any prefetch, twice") {
  for (auto& subject : subjects())
    on_worlds([&](Communicator world) {
      at::NoGradGuard no_grad;
      auto plain = seeded(subject.make);
      for (auto sharding : kShardings)
        for (int64_t prefetch : {0, 2}) {
          auto sharded = seeded(subject.make) |
                         wanpar::sharded_params({.group = world, .sharding = sharding, .prefetch = prefetch});
          for (int64_t length : {9, 4, 4}) {
            auto x = subject.input(length);
            require_close(sharded(x), plain(x), 1e-6, fmt::format("{}, prefetch {}", subject.name, prefetch));
          }
        }
    });
}

TEST_CASE("inference mode, on whichever side of the wrapping") {
  on_worlds([&](Communicator world) {
    auto x = random({3, 32});
    auto plain = seeded([] { return perceptron(); });
    auto outside = seeded([] { return perceptron(); }) | wanpar::sharded_params({.group = world});
    c10::InferenceMode inference;
    auto inside = seeded([] { return perceptron(); }) | wanpar::sharded_params({.group = world});
    for (int run = 0; run < 2; ++run) {
      require_close(outside(x), plain->forward(x), 1e-6, "wrapped outside");
      require_close(inside(x), plain->forward(x), 1e-6, "wrapped inside");
    }
  });
}

TEST_CASE("a result that is a view of a parameter is whole after the forward") {
  on_worlds([](Communicator world) {
    torch::nn::Linear plain = seeded([] { return torch::nn::Linear(12, 12); });
    auto linear = seeded([] { return torch::nn::Linear(12, 12); });
    struct Views : torch::nn::Module {
      explicit Views(torch::nn::Linear l) : linear(register_module("linear", l)) {}
      std::tuple<at::Tensor, at::Tensor> forward(at::Tensor x) { return {linear->weight.t(), linear(x)}; }
      torch::nn::Linear linear;
    };
    auto sharded = std::make_shared<Views>(linear) | wanpar::sharded_params({.group = world});
    auto x = random({3, 12});
    auto [view, result] = sharded(x);
    require_equal(view, plain->weight.t(), "the view");
    require_close(result, plain(x), 1e-6, "the result");
  });
}

TEST_CASE("thread ranks that share one module are refused") {
  auto shared = perceptron();
  CHECK_THROWS_WITH_AS(
      wanpar::local::run(
          4, [&](Communicator world) { Model(shared.ptr()) | wanpar::sharded_params({.group = world}); }),
      doctest::Contains("each rank needs a module of its own"), wanpar::Error);
}

TEST_CASE("under sequence parallelism: units are gathered while tokens are split") {
  auto plain = seeded([] { return AttentionModel(); });
  on_worlds([&](Communicator world) {
    at::NoGradGuard no_grad;
    Model sharded = seeded([] { return AttentionModel().ptr(); }) | wanpar::sharded_params({.group = world});
    auto split =
        sharded | wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
    for (int64_t length : {13, 13, 2})
      require_close(split(random({2, length, 48})), plain(random({2, length, 48})), 1e-5,
                    "tokens and parameters");
  });
}

TEST_CASE("autocast keeps no converted copy of a weight that has gone") {
  on_worlds([](Communicator world) {
    at::NoGradGuard no_grad;
    auto x = random({3, 32});
    auto plain = seeded([] { return perceptron(); });
    auto sharded = seeded([] { return perceptron(); }) | wanpar::sharded_params({.group = world});
    at::autocast::set_autocast_enabled(at::kCPU, true);
    for (int run = 0; run < 2; ++run) {
      auto result = sharded(x);
      at::autocast::set_autocast_cache_enabled(false);
      auto expected = plain->forward(x);
      at::autocast::set_autocast_cache_enabled(true);
      if (world.size() > 1) require_close(result, expected, 1e-6, fmt::format("run {}", run));
      for (auto& shard : sharded.parameters()) shard.mul_(2);
      for (auto& parameter : plain->parameters()) parameter.mul_(2);
    }
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
  });
}

TEST_CASE("what stays here from one forward to the next is fetched again after a change") {
  on_worlds([](Communicator world) {
    at::NoGradGuard no_grad;
    auto x = random({3, 32});
    for (auto sharding : kShardings)
      for (auto dtype : {at::kFloat, at::kDouble}) {
        auto plain = seeded([] { return perceptron(); });
        auto sharded = seeded([] { return perceptron(); }) |
                       wanpar::sharded_params({.group = world, .sharding = sharding, .param_dtype = dtype});
        for (int run = 0; run < 3; ++run) {
          require_close(sharded(x), plain->forward(x), 1e-4, fmt::format("run {}", run));
          for (auto& shard : sharded.parameters()) shard.mul_(1.5);
          for (auto& parameter : plain->parameters()) parameter.mul_(1.5);
        }
      }
  });
}

TEST_CASE("dtypes: parameters and buffers are computed with in another, shards keep their own") {
  on_worlds([](Communicator world) {
    at::NoGradGuard no_grad;
    auto x = random({3, 32});
    auto plain = seeded([] { return perceptron(); });
    for (auto sharding : kShardings) {
      auto sharded =
          seeded([] { return perceptron(); }) |
          wanpar::sharded_params({.group = world, .sharding = sharding, .param_dtype = at::kBFloat16});
      auto result = sharded(x);
      require(result.scalar_type() == at::kBFloat16, "the result is bfloat16");
      require_close(result, plain->forward(x), 0.02, "in bfloat16");
      for (auto& shard : sharded.parameters()) require(shard.scalar_type() == at::kFloat, "shards are float");
    }
    auto zoo =
        seeded([] { return Zoo(); }) | wanpar::sharded_params({.group = world, .buffer_dtype = at::kDouble});
    require(zoo.named_buffers()[0].tensor.scalar_type() == at::kDouble, "the buffer is double");
  });
}

TEST_CASE("ranks begin with the values of rank 0 where they are asked to") {
  on_worlds([](Communicator world) {
    at::NoGradGuard no_grad;
    auto plain = seeded([] { return Zoo(); });
    for (auto sharding : kShardings) {
      auto mine = seeded([] { return Zoo(); });
      if (world.rank() > 0) {
        for (auto& parameter : mine->parameters()) parameter.mul_(3).add_(world.rank());
        for (auto& buffer : mine->buffers()) buffer.zero_();
      }
      auto sharded =
          mine | wanpar::sharded_params({.group = world, .sharding = sharding, .sync_module_states = true});
      require_close(sharded(tokens(5)), plain(tokens(5)), 1e-6,
                    fmt::format("as rank 0, {}", static_cast<int>(sharding)));
    }
  });
}

TEST_CASE("what cannot be sharded is refused on every rank") {
  on_worlds([](Communicator world) {
    if (world.size() == 1) return;
    auto options = [&] { return wanpar::sharded_params({.group = world}); };
    require_error(
        [&] { Model(torch::nn::Linear(4, 4 + world.rank() / (world.size() - 1)).ptr()) | options(); },
        "where rank 0 has weight");
    auto frozen = torch::jit::load(TEST_DATA "/attention.pt");
    frozen.eval();
    frozen = torch::jit::freeze(frozen);
    require_error([&] { Model(frozen) | options(); }, "wrap it before freezing");
    require_error([&] { Model([](at::Tensor x) { return x; }) | options(); }, "no parameters");
    world.barrier();

    auto layer = std::make_shared<torch::nn::LinearImpl>(4, 4);
    auto first = Model(layer) | options();
    require_error([&] { Model(layer) | options(); }, "is sharded already");
    world.barrier();

    struct Writer : torch::nn::Module {
      Writer() { weight = register_parameter("weight", torch::ones({8})); }
      at::Tensor forward(at::Tensor x) {
        at::NoGradGuard no_grad;
        weight.mul_(2);
        return x * weight;
      }
      at::Tensor weight;
    };
    auto writer = std::make_shared<Writer>() | options();
    require_error([&] { writer(at::ones({8})); }, "wrote to a parameter");
  });
}

}  // namespace forward_test
