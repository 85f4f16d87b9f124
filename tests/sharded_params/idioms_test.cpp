// Loops as users of LibTorch write them, around a sharded module: as on one rank, or one clear error.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/optim.h>
#include <wanpar/strategy/sharded_params.hpp>

#include "sharded_params/models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Sharding;

namespace idioms_test {
namespace {

constexpr Sharding kShardings[] = {Sharding::full_shard, Sharding::shard_grad_op, Sharding::no_shard};

torch::nn::Sequential model() {
  auto made = seeded([] { return perceptron(16, 4); });
  made->to(at::kDouble);
  return made;
}

/// The samples of one rank in one step.
at::Tensor batch(int rank, int step) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(100 * step + rank + 1);
  return at::randn({3, 16}, generator, at::kDouble);
}

/// A training: a step by `call`, with the optimizer over `parameters`, and what else the loop does.
template <class Step>
void on_every_sharding(const Step& step, const std::vector<int>& sizes = {1, 2, 3}) {
  on_worlds(
      [&](Communicator world) {
        for (auto sharding : kShardings) step(world, sharding);
      },
      sizes);
}

template <class Sharded>
void require_values(Sharded& sharded, torch::nn::Sequential& plain, const std::string& where) {
  auto expected = plain->named_parameters();
  sharded.each_parameter([&](auto& name, auto& value) {
    require_close(value, *expected.find(name), 1e-9, fmt::format("{}: {}", where, name));
  });
}

/// The gradient of the mean over all ranks' samples, on one rank.
void backward_of_all(torch::nn::Sequential& plain, int ranks, int step) {
  for (int rank = 0; rank < ranks; ++rank)
    (plain->forward(batch(rank, step)).square().mean() / ranks).backward();
}

}  // namespace

TEST_CASE("writes that no version counter sees are seen: SGD, clamping, an average of weights") {
  on_every_sharding([](Communicator world, Sharding sharding) {
    auto plain = model(), module = model();
    auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding, .prefetch = 9});
    torch::optim::SGD one(plain->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    torch::optim::SGD many(sharded.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    for (int step = 0; step < 4; ++step) {
      one.zero_grad(), many.zero_grad();
      backward_of_all(plain, world.size(), step);
      sharded.forward(batch(world.rank(), step)).square().mean().backward();
      require_close(sharded.forward(batch(0, 50)), plain->forward(batch(0, 50)), 1e-9,
                    "a metric before the step");
      one.step(), many.step();
      require_close(sharded.forward(batch(0, 51)), plain->forward(batch(0, 51)), 1e-9, "and behind it");
      for (auto& parameter : plain->parameters()) parameter.data().clamp_(-0.2, 0.2);
      for (auto& shard : sharded.parameters()) shard.data().clamp_(-0.2, 0.2);
      at::NoGradGuard no_grad;
      require_close(sharded.forward(batch(0, 52)), plain->forward(batch(0, 52)), 1e-9, "clamped");
    }
    require_values(sharded, plain, "trained");
  });
}

TEST_CASE("groups by name: no decay for biases, a rate of its own for one layer") {
  on_every_sharding([](Communicator world, Sharding sharding) {
    auto plain = model(), module = model();
    auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
    auto groups = [](auto&& named) {
      std::vector<torch::optim::OptimizerParamGroup> groups;
      auto options = [](double rate, double decay) {
        return std::make_unique<torch::optim::AdamWOptions>(
            torch::optim::AdamWOptions(rate).weight_decay(decay));
      };
      std::vector<at::Tensor> decayed, others, last;
      for (auto& [name, tensor] : named)
        (name.starts_with("6.") ? last : name.ends_with("bias") ? others : decayed).push_back(tensor);
      groups.emplace_back(decayed, options(0.01, 0.1));
      groups.emplace_back(others, options(0.01, 0));
      groups.emplace_back(last, options(0.002, 0.1));
      return groups;
    };
    torch::optim::AdamW one(groups(wanpar::named_parameters(plain))),
        many(groups(sharded.named_parameters()));
    for (int step = 0; step < 5; ++step) {
      one.zero_grad(), many.zero_grad();
      backward_of_all(plain, world.size(), step);
      sharded.forward(batch(world.rank(), step)).square().mean().backward();
      torch::nn::utils::clip_grad_norm_(plain->parameters(), 0.05);
      sharded.clip_grad_norm(0.05);
      one.step(), many.step();
    }
    require_values(sharded, plain, "groups");
  });
}

TEST_CASE("a parameter without a gradient is not stepped; frozen ones stop, unfrozen ones train") {
  on_every_sharding([](Communicator world, Sharding sharding) {
    auto plain = model(), module = model();
    auto bias = [](auto& m) { return m->parameters()[3]; };
    bias(plain).requires_grad_(false), bias(module).requires_grad_(false);
    auto sharded = module | wanpar::sharded_params(
                                {.group = world, .sharding = sharding, .units = {"0", "2", "4", "6"}});
    torch::optim::AdamW one(plain->parameters(), torch::optim::AdamWOptions(0.01).weight_decay(0.1));
    torch::optim::AdamW many(sharded.parameters(), torch::optim::AdamWOptions(0.01).weight_decay(0.1));
    for (int step = 0; step < 6; ++step) {
      if (step == 2) bias(plain).requires_grad_(true), bias(module).requires_grad_(true);
      if (step == 4)
        for (auto& parameters : {plain->parameters(), module->parameters()})
          parameters[0].requires_grad_(false), parameters[1].requires_grad_(false);
      one.zero_grad(), many.zero_grad();
      backward_of_all(plain, world.size(), step);
      sharded.forward(batch(world.rank(), step)).square().mean().backward();
      one.step(), many.step();
    }
    require_values(sharded, plain, "frozen and unfrozen");
  });
}

TEST_CASE("idioms of the bare module work, or are an error; never nothing") {
  on_every_sharding(
      [](Communicator world, Sharding sharding) {
        auto plain = model(), module = model();
        auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
        auto backward = [&](int step) {
          backward_of_all(plain, world.size(), step);
          sharded.forward(batch(world.rank(), step)).square().mean().backward();
        };
        torch::optim::AdamW one(plain->parameters()), many(sharded.parameters());
        torch::optim::AdamW astray(module->parameters());
        for (int step = 0; step < 3; ++step) {
          plain->zero_grad(), module->zero_grad();  // of the module behind the wrapper
          backward(step);
          one.step(), many.step();
        }
        require_values(sharded, plain, "module->zero_grad()");
        if (sharding == Sharding::no_shard) return;  // parameters are here: an optimizer over them is right
        backward(3);
        require_error([&] { astray.step(); }, "which is sharded");
        require_error([&] { torch::nn::utils::clip_grad_norm_(module->parameters(), 1); },
                      "which is sharded");
        require_error([&] { (void)module->parameters()[0].grad().norm(); }, "the gradient of 0.weight");
      },
      {2, 3});
}

TEST_CASE("what is written under unshard() is kept") {
  on_every_sharding([](Communicator world, Sharding sharding) {
    for (auto dtype : {at::kDouble, at::kFloat}) {
      auto plain = model(), module = model();
      auto sharded =
          module | wanpar::sharded_params({.group = world, .sharding = sharding, .param_dtype = dtype});
      at::NoGradGuard no_grad;
      {
        auto here = sharded.unshard();
        module->parameters()[2].data().clamp_(-0.125, 0.125);
        torch::nn::init::constant_(module->parameters()[5], 0.5);
      }
      plain->parameters()[2].clamp_(-0.125, 0.125);
      plain->parameters()[5].fill_(0.5);
      auto expected = plain->named_parameters();
      sharded.each_parameter([&](auto& name, auto& value) {
        bool is_exact = dtype == at::kDouble || name != "2.weight";
        require_close(value, *expected.find(name), is_exact ? 0 : 1e-7, name);
      });
    }
  });
}

TEST_CASE("gradients that would be each rank's own are refused") {
  on_worlds(
      [](Communicator world) {
        for (auto sharding : kShardings) {
          auto module = model();
          auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
          auto loss = [&] { return sharded.forward(batch(world.rank(), 0)).square().mean(); };
          require_error([&] { torch::autograd::grad({loss()}, module->parameters()); }, "autograd::grad()");
          require_error([&] { loss().backward({}, {}, false, module->parameters()); }, "list of inputs");

          auto late = torch::nn::Linear(torch::nn::LinearOptions(16, 16));
          late->to(at::kDouble);
          module->push_back(late);
          require_error([&] { (void)loss(); }, "was no parameter of the module when it was wrapped");
        }
      },
      {2, 3});
}

TEST_CASE(
    "a step between a forward and its backward is refused, a backward behind the wrapper's end is right") {
  on_worlds(
      [](Communicator world) {
        for (auto sharding : {Sharding::full_shard, Sharding::shard_grad_op}) {
          auto plain = model(), module = model();
          std::vector<at::Tensor> shards;
          at::Tensor loss;
          {
            auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
            auto late = sharded.forward(batch(world.rank(), 0)).square().mean();
            {
              at::NoGradGuard no_grad;
              for (auto& shard : sharded.parameters()) shard.mul_(0.5);
            }
            require_error([&] { late.backward(); }, "between a forward and its backward");
            world.barrier();
            shards = sharded.parameters();
            loss = sharded.forward(batch(world.rank(), 1)).square().mean();
          }
          loss.backward();
          for (auto& parameter : plain->parameters()) parameter.data().mul_(0.5);
          backward_of_all(plain, world.size(), 1);
          auto expected = at::zeros({}, at::kDouble);
          for (auto& parameter : plain->parameters()) expected += parameter.grad().square().sum();
          auto actual = at::zeros({}, at::kDouble);
          for (auto& shard : shards) actual += shard.grad().square().sum();
          require_close(actual, expected, 1e-9, "all of the gradient");
        }
      },
      {2, 3});
}

}  // namespace idioms_test
