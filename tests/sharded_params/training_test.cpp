#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/optim.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/extend/conformance/strategy.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;
using wanpar::Sharding;

namespace training_test {
namespace {

constexpr Sharding kShardings[] = {Sharding::full_shard, Sharding::shard_grad_op, Sharding::no_shard};

at::Tensor random(std::vector<int64_t> shape, at::ScalarType dtype, int seed = 0) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed + 7), dtype);
}

/// Rows of a batch of 24, of which each rank takes its share.
at::Tensor mine(const at::Tensor& batch, const Communicator& world) {
  return batch.chunk(world.size())[world.rank()];
}

at::Tensor tokens(int64_t rows, int seed = 0) {
  return at::arange(rows * 6).view({rows, 6}).mul(seed + 3).remainder(ZooImpl::kWords);
}

template <class Make>
auto in_double(const Make& make) {
  auto module = seeded(make);
  module->to(at::kDouble);
  return module;
}

template <class Sharded, class Module>
void require_same_gradients(Sharded& sharded, Module& plain, const std::string& claim) {
  auto actual = wanpar::conformance::whole_gradients(sharded);
  for (auto& [name, tensor] : wanpar::named_parameters(plain)) {
    if (!tensor.requires_grad()) continue;
    auto expected = tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor);
    auto scale = std::max(1e-3, expected.abs().max().template item<double>());
    require_close(actual.at(name) / scale, expected / scale, 1e-9, claim + ", gradient of " + name);
  }
}

}  // namespace

TEST_CASE("a backward outside of any scope gives the gradients of one rank, for everything in the zoo") {
  on_worlds([](Communicator world) {
    auto plain = in_double([] { return Zoo(); });
    auto all = tokens(24);
    plain(all).square().mean().backward();
    for (auto sharding : kShardings)
      for (int64_t prefetch : {0, 1, 2}) {
        auto sharded = in_double([] { return Zoo(); }) |
                       wanpar::sharded_params({.group = world,
                                               .sharding = sharding,
                                               .prefetch = prefetch,
                                               .min_unit_bytes = prefetch == 2 ? 2000 : 0});
        for (int run = 0; run < 2; ++run) {
          for (auto& shard : sharded.parameters()) shard.mutable_grad().reset();
          sharded(mine(all, world)).square().mean().backward();
          require_same_gradients(sharded, plain,
                                 fmt::format("{} ranks, prefetch {}", world.size(), prefetch));
        }
      }
  });
}

TEST_CASE("gradients of a TorchScript module, in each run of its profiling") {
  on_worlds([](Communicator world) {
    auto load = [] {
      auto module = torch::jit::load(TEST_DATA "/attention.pt");
      module.to(at::kDouble);
      return module;
    };
    auto x = random({24, 11, 48}, at::kDouble);
    auto plain = load();
    auto sharded = load() | wanpar::sharded_params({.group = world});
    for (int run = 0; run < 4; ++run) {
      for (auto& shard : sharded.parameters()) shard.mutable_grad().reset();
      for (auto parameter : plain.parameters()) parameter.mutable_grad().reset();
      plain.forward({x}).toTensor().square().mean().backward();
      sharded(mine(x, world)).square().mean().backward();
      require_same_gradients(sharded, plain, fmt::format("run {}", run));
    }
  });
}

TEST_CASE("twenty steps of AdamW over the shards are twenty steps of one rank, clipped by the global norm") {
  for (auto dtype : {at::kDouble, at::kFloat})
    on_worlds(
        [&](Communicator world) {
          auto make = [] { return AttentionModel(); };
          auto plain = seeded(make);
          plain->to(dtype);
          auto module = seeded(make);
          module->to(dtype);
          auto sharded = module | wanpar::sharded_params({.group = world});
          auto options = torch::optim::AdamWOptions(1e-3);
          torch::optim::AdamW one(plain->parameters(), options), many(sharded.parameters(), options);
          auto tolerance = dtype == at::kDouble ? 1e-9 : 1e-4;
          for (int step = 0; step < 20; ++step) {
            auto x = random({8, 5, 48}, dtype, step), target = random({8, 5, 48}, dtype, step + 100);
            one.zero_grad();
            auto expected = (plain(x) - target).square().mean();
            expected.backward();
            many.zero_grad();
            auto loss = (sharded(mine(x, world)) - mine(target, world)).square().mean();
            loss.backward();
            auto average = world.all_reduce(loss.detach(), wanpar::ReduceOp::mean).get();
            require_close(average, expected.detach(), tolerance, fmt::format("step {}", step));
            auto norm = torch::nn::utils::clip_grad_norm_(plain->parameters(), 0.1);
            require(std::abs(sharded.clip_grad_norm(0.1) - norm) < tolerance * 10, "the norm");
            one.step();
            many.step();
          }
        },
        {1, 2, 4});
}

TEST_CASE("hybrid: shards in one group, replicas across another") {
  on_worlds(
      [](Communicator world) {
        wanpar::Mesh mesh(world, {{"replicate", 2}, {"shard", world.size() / 2}});
        auto plain = in_double([] { return Zoo(); });
        auto all = tokens(24);
        plain(all).square().mean().backward();
        auto sharded = in_double([] { return Zoo(); }) |
                       wanpar::sharded_params({.group = mesh["shard"], .replicate = mesh["replicate"]});
        sharded(mine(all, world)).square().mean().backward();
        require_same_gradients(sharded, plain, "hybrid");
      },
      {2, 4, 6, 8});
}

TEST_CASE("gradients add up over backwards, averaged at once or at last") {
  on_worlds([](Communicator world) {
    auto plain = in_double([] { return Zoo(); });
    auto sharded = in_double([] { return Zoo(); }) | wanpar::sharded_params({.group = world});
    for (int i = 0; i < 3; ++i) plain(tokens(24, i)).square().mean().backward();
    auto step = [&](int i) { sharded(mine(tokens(24, i), world)).square().mean().backward(); };
    for (int i = 0; i < 3; ++i) step(i);
    require_same_gradients(sharded, plain, "each averaged");

    for (auto& shard : sharded.parameters()) shard.mutable_grad().reset();
    {
      auto later = sharded.no_sync();
      for (int i = 0; i < 2; ++i) step(i);
      for (auto& shard : sharded.parameters())
        require(!shard.grad().defined() || world.size() == 1, "nothing is averaged yet");
    }
    step(2);
    require_same_gradients(sharded, plain, "averaged at last");
  });
}

TEST_CASE("what is frozen gets no gradient; half precision is trained with shards in float") {
  on_worlds([](Communicator world) {
    auto plain = in_double([] { return Zoo(); }), module = in_double([] { return Zoo(); });
    for (auto* zoo : {&plain, &module})
      for (auto& parameter : (*zoo)->recurrent->parameters()) parameter.set_requires_grad(false);
    plain(tokens(24)).square().mean().backward();
    auto sharded = module | wanpar::sharded_params({.group = world});
    sharded(mine(tokens(24), world)).square().mean().backward();
    require_same_gradients(sharded, plain, "partly frozen");

    auto x = random({24, 32}, at::kFloat);
    auto half =
        seeded([] { return perceptron(); }) |
        wanpar::sharded_params({.group = world, .param_dtype = at::kBFloat16, .reduce_dtype = at::kFloat});
    auto whole = seeded([] { return perceptron(); });
    whole->forward(x).square().mean().backward();
    half(mine(x, world)).to(at::kFloat).square().mean().backward();
    auto actual = wanpar::conformance::whole_gradients(half);
    for (auto& [name, tensor] : wanpar::named_parameters(whole))
      require_close(actual.at(name), tensor.grad(), 2e-3, name);
  });
}

namespace {

/// Saves its weight itself, and has no node while its forward runs.
struct Scale : torch::autograd::Function<Scale> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, at::Tensor x, at::Tensor weight) {
    context->save_for_backward({x, weight});
    return x * weight;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    return {gradients[0] * saved[1], (gradients[0] * saved[0]).sum(0)};
  }
};

struct CustomImpl : torch::nn::Module {
  CustomImpl() {
    for (int i = 0; i < 4; ++i)
      scales.push_back(register_parameter("scale" + std::to_string(i), torch::rand({16}) + 0.5));
    linear = register_module("linear", torch::nn::Linear(16, 16));
  }
  at::Tensor forward(at::Tensor x) {
    x = Scale::apply(x, scales[0]);
    x = Scale::apply(linear(Scale::apply(x, scales[1])), scales[2]);
    return Scale::apply(x, scales[3]);
  }
  std::vector<at::Tensor> scales;
  torch::nn::Linear linear{nullptr};
};
TORCH_MODULE(Custom);

}  // namespace

TEST_CASE("an autograd function of the module's own finds the weights that it saved") {
  on_worlds([](Communicator world) {
    auto plain = in_double([] { return Custom(); });
    auto x = random({24, 16}, at::kDouble);
    plain(x).square().mean().backward();
    for (int64_t prefetch : {0, 1}) {
      auto sharded =
          in_double([] { return Custom(); }) | wanpar::sharded_params({.group = world, .prefetch = prefetch});
      sharded(mine(x, world)).square().mean().backward();
      require_same_gradients(sharded, plain, "own functions");
    }
  });
}

TEST_CASE("a second derivative is refused") {
  on_worlds(
      [](Communicator world) {
        auto sharded = seeded([] { return perceptron(); }) | wanpar::sharded_params({.group = world});
        auto x = random({4, 32}, at::kFloat).requires_grad_();
        auto loss = sharded(x).square().mean();
        require_error([&] { torch::autograd::grad({loss}, {x}, {}, true, true); }, "differentiate once");
      },
      {2, 3});
}

}  // namespace training_test
