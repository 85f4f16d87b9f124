// Training loops as users write them, around each strategy that trains: losses and weights are those of one
// rank.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/optim.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/module/clip_grad_norm.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <map>
#include <memory>

#include "worlds.hpp"

using wanpar::BatchMode;
using wanpar::Communicator;
using wanpar::NamedTensors;
using wanpar::Sharding;
using wanpar::Tensors;

namespace loops_test {
namespace {

at::Tensor draw(std::vector<int64_t> shape, int seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed + 7), at::kDouble);
}

/// Blocks with a norm and an adapter of low rank, between an embedding of its input and a head. Where
/// `expert` is one of two, blocks of the other use their norm alone.
struct NetImpl : torch::nn::Module {
  NetImpl(int64_t in, int64_t out) {
    first = register_module("first", torch::nn::Linear(in, kWidth));
    for (int i = 0; i < 4; ++i) {
      blocks.push_back(
          register_module("blocks" + std::to_string(i),
                          torch::nn::Sequential(torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})),
                                                torch::nn::Linear(kWidth, kWidth), torch::nn::Tanh())));
      adapters.push_back(register_module(
          "adapters" + std::to_string(i),
          torch::nn::Sequential(torch::nn::Linear(torch::nn::LinearOptions(kWidth, 2).bias(false)),
                                torch::nn::Linear(torch::nn::LinearOptions(2, kWidth).bias(false)))));
    }
    last = register_module("last", torch::nn::Linear(kWidth, out));
    to(at::kDouble);
    at::NoGradGuard no_grad;
    int seed = 0;
    for (auto& parameter : parameters()) parameter.copy_(draw(parameter.sizes().vec(), ++seed) * 0.4);
    for (auto& adapter : adapters)
      for (auto& parameter : adapter->parameters()) parameter.mul_(0.5);
  }
  at::Tensor forward(at::Tensor x) {
    wanpar::BlockStack stack{static_cast<int64_t>(blocks.size()),
                             [this](int64_t i, at::Tensor y, const Tensors&) {
                               if (expert >= 0 && i % 2 != expert)
                                 return y + blocks[i]->ptr(0)->as<torch::nn::LayerNorm>()->forward(y);
                               return y + blocks[i]->forward(y) + adapters[i]->forward(y);
                             },
                             [this](int64_t i) {
                               auto tensors = wanpar::tensors_of(blocks[i]);
                               for (auto& tensor : wanpar::tensors_of(adapters[i])) tensors.push_back(tensor);
                               return tensors;
                             }};
    return wanpar::run_blocks(stack, first(x), {}, [this](at::Tensor y) { return last(y); });
  }
  static constexpr int64_t kWidth = 8;
  torch::nn::Linear first{nullptr}, last{nullptr};
  std::vector<torch::nn::Sequential> blocks, adapters;
  int64_t expert = -1;
};
TORCH_MODULE(Net);

/// A module that is trained, in the way in which a strategy does that; a loop knows no more of it.
struct Trained {
  Net net;
  std::function<at::Tensor(at::Tensor)> forward;
  std::function<NamedTensors()> named_parameters;
  std::function<void()> zero_grad;
  std::function<double(double max)> clip;
  std::function<std::shared_ptr<void>()> no_sync;
  std::function<std::map<std::string, at::Tensor>()> state;  // whole, on every rank
  Communicator world = {};
  bool has_own_batch = false;

  at::Tensor operator()(at::Tensor x) const { return forward(std::move(x)); }
  Tensors parameters() const { return tensors_in(named_parameters()); }
  /// The samples of a batch that this rank is given; of few, some ranks have none.
  at::Tensor given(const at::Tensor& batch) const {
    return has_own_batch ? batch.tensor_split(world.size())[world.rank()] : batch;
  }
  /// The mean of what samples cost, whose gradient is averaged over the ranks.
  at::Tensor mean(const at::Tensor& costs, int64_t samples) const {
    return costs.sum() / static_cast<double>(samples) * (has_own_batch ? world.size() : 1);
  }
  /// Of the whole batch.
  double value(const at::Tensor& loss) const {
    return has_own_batch ? world.all_reduce(loss.detach(), wanpar::ReduceOp::mean).get().item<double>()
                         : loss.item<double>();
  }
};

std::map<std::string, at::Tensor> state_of(const Net& net) {
  std::map<std::string, at::Tensor> state;
  for (auto& item : net->named_parameters()) state[item.key()] = item.value().detach().clone();
  return state;
}

template <class Model>
Trained trained(Net net, Model model, const Communicator& world) {
  auto shared = std::make_shared<Model>(std::move(model));
  Trained all{.net = net,
              .forward = [=](at::Tensor x) { return (*shared)(std::move(x)); },
              .named_parameters = [=] { return shared->named_parameters(); },
              .zero_grad = [=] { shared->zero_grad(); },
              .clip =
                  [=](double max) {
                    if constexpr (requires { shared->clip_grad_norm(max); })
                      return shared->clip_grad_norm(max);
                    else if constexpr (requires { shared->synchronize(); })
                      return wanpar::clip_grad_norm(shared->parameters(), max, world);
                    else
                      return torch::nn::utils::clip_grad_norm_(shared->parameters(), max);
                  },
              .no_sync = []() -> std::shared_ptr<void> { return {}; },
              .state = {},
              .world = world};
  if constexpr (requires { shared->no_sync(); })
    all.no_sync = [=]() -> std::shared_ptr<void> {
      return std::shared_ptr<wanpar::NoSync>(new wanpar::NoSync(shared->no_sync()));
    };
  all.state = [=] {
    if constexpr (requires { shared->synchronize(); }) shared->synchronize();
    if constexpr (requires { shared->unshard(); }) {
      auto whole = shared->unshard();
      return state_of(net);
    }
    return state_of(net);
  };
  return all;
}

Trained alone(Net net) {
  return {.net = net,
          .forward = [=](at::Tensor x) mutable { return net(std::move(x)); },
          .named_parameters = [=] { return wanpar::named_parameters(net); },
          .zero_grad = [=]() mutable { net->zero_grad(); },
          .clip = [=](double max) { return torch::nn::utils::clip_grad_norm_(net->parameters(), max); },
          .no_sync = []() -> std::shared_ptr<void> { return {}; },
          .state = [=] { return state_of(net); }};
}

struct Strategy {
  std::string name;
  std::function<Trained(Net net, Communicator world)> train;
};

Strategy sharded(const std::string& name, Sharding sharding) {
  return {name, [=](Net net, Communicator world) {
            auto all =
                trained(net, net | wanpar::sharded_params({.group = world, .sharding = sharding}), world);
            all.has_own_batch = true;
            return all;
          }};
}

const std::vector<Strategy>& strategies() {
  static const std::vector<Strategy> all{
      {"a whole batch",
       [](Net net, Communicator world) {
         return trained(net, net | wanpar::data_parallel({.group = world, .bucket_bytes = 500}), world);
       }},
      {"a batch of each rank's own",
       [](Net net, Communicator world) {
         auto all = trained(
             net,
             net | wanpar::data_parallel({.group = world, .mode = BatchMode::local, .bucket_bytes = 500}),
             world);
         all.has_own_batch = true;
         return all;
       }},
      sharded("full_shard", Sharding::full_shard),
      sharded("shard_grad_op", Sharding::shard_grad_op),
      sharded("no_shard", Sharding::no_shard),
      {"pipeline",
       [](Net net, Communicator world) {
         return trained(net, net | wanpar::block_pipeline({.stages = world, .micro_batches = 2}), world);
       }},
  };
  return all;
}

using Optimizer = std::unique_ptr<torch::optim::Optimizer>;
using MakeOptimizer = std::function<Optimizer(Tensors)>;

Optimizer sgd(Tensors parameters, double momentum) {
  return std::make_unique<torch::optim::SGD>(
      std::move(parameters), torch::optim::SGDOptions(0.1).momentum(momentum).weight_decay(0.01));
}
Optimizer adamw(Tensors parameters) {
  return std::make_unique<torch::optim::AdamW>(std::move(parameters),
                                               torch::optim::AdamWOptions(0.02).weight_decay(0.1));
}

const std::vector<std::pair<std::string, MakeOptimizer>>& optimizers() {
  static const std::vector<std::pair<std::string, MakeOptimizer>> all{
      {"SGD", [](Tensors parameters) { return sgd(std::move(parameters), 0); }},
      {"SGD with momentum", [](Tensors parameters) { return sgd(std::move(parameters), 0.9); }},
      {"AdamW", adamw}};
  return all;
}

at::Tensor inputs(int step, int64_t samples = 8) { return draw({samples, 5}, 1000 + step); }
at::Tensor targets(int step, int64_t samples = 8) { return draw({samples, 3}, 2000 + step); }

/// The loss of a batch of `samples`, of which the model is given its part.
at::Tensor loss_of(const Trained& model, int step, int64_t samples = 8) {
  auto costs = (model(model.given(inputs(step, samples))) - model.given(targets(step, samples))).square();
  return model.mean(costs, 3 * samples);
}

/// Trains models in some way; gives what a user would have written down meanwhile.
using Loop = std::function<std::vector<double>(std::vector<Trained>& models, const MakeOptimizer& make)>;

/// The loop around each strategy, with each optimizer, is what it is on one rank, with as many models.
void check(const Loop& loop, const std::vector<std::pair<int64_t, int64_t>>& sizes = {{5, 3}}) {
  for (auto& [optimizer, make] : optimizers()) {
    auto nets = [&] {
      std::vector<Net> all;
      for (auto& [in, out] : sizes) all.emplace_back(in, out);
      return all;
    };
    std::vector<Trained> bare;
    for (auto& net : nets()) bare.push_back(alone(net));
    const auto expected = loop(bare, make);
    for (auto& strategy : strategies())
      on_worlds(
          [&](Communicator world) {
            auto where = fmt::format("{}, {}, {} ranks", strategy.name, optimizer, world.size());
            std::vector<Trained> models;
            for (auto& net : nets()) models.push_back(strategy.train(net, world));
            const auto found = loop(models, make);
            require(found.size() == expected.size(), where + ": as many numbers");
            for (size_t i = 0; i < found.size(); ++i)
              require(
                  std::abs(found[i] - expected[i]) <= 1e-9 * std::max(1.0, std::abs(expected[i])),
                  fmt::format("{}: number {} is {:.12g}, which is {:.12g}", where, i, found[i], expected[i]));
            for (size_t i = 0; i < models.size(); ++i) {
              auto state = models[i].state();
              for (auto& [name, value] : bare[i].state())
                require_close(state.at(name), value, 1e-9, where + ": " + name);
            }
          },
          {1, 2, 4});
  }
}

}  // namespace

TEST_CASE("gradients of several batches add up, and are clipped") {
  for (bool pauses : {false, true})
    check([pauses](std::vector<Trained>& models, const MakeOptimizer& make) {
      auto& model = models[0];
      auto optimizer = make(model.parameters());
      std::vector<double> seen;
      for (int step = 0; step < 3; ++step) {
        optimizer->zero_grad();
        for (int part = 0; part < 3; ++part) {
          auto paused = pauses && part < 2 ? model.no_sync() : nullptr;
          auto loss = loss_of(model, 3 * step + part) / 3;
          loss.backward();
          seen.push_back(model.value(loss));
        }
        seen.push_back(model.clip(0.2));
        optimizer->step();
      }
      return seen;
    });
}

TEST_CASE("losses are scaled, and a step whose gradients overflow is left out by all") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    auto optimizer = make(model.parameters());
    std::vector<double> seen;
    double scale = 1024;
    for (int step = 0; step < 5; ++step) {
      model.zero_grad();
      auto loss = loss_of(model, step);
      (loss * (step == 2 ? std::numeric_limits<double>::infinity() : scale)).backward();
      bool overflows = false;
      at::NoGradGuard no_grad;
      for (auto& parameter : model.parameters()) {
        if (!parameter.grad().defined()) continue;
        parameter.mutable_grad().div_(scale);
        overflows |= !parameter.grad().isfinite().all().item<bool>();
      }
      if (wanpar::on_any_rank(model.world, overflows))
        scale /= 2;
      else
        optimizer->step();
      seen.push_back(model.value(loss));
      seen.push_back(scale);
    }
    return seen;
  });
}

TEST_CASE("a mean of the weights is kept, and is what validation between steps sees") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    auto optimizer = make(model.parameters());
    Tensors mean;
    for (auto& parameter : model.parameters()) mean.push_back(parameter.detach().clone());
    std::vector<double> seen;
    auto swap = [&] {
      at::NoGradGuard no_grad;
      for (size_t i = 0; auto parameter : model.parameters()) {
        auto kept = parameter.detach().clone();
        parameter.data().copy_(mean[i]);
        mean[i++] = kept;
      }
    };
    for (int step = 0; step < 4; ++step) {
      optimizer->zero_grad();
      auto loss = loss_of(model, step);
      loss.backward();
      optimizer->step();
      seen.push_back(model.value(loss));
      {
        at::NoGradGuard no_grad;
        for (size_t i = 0; auto& parameter : model.parameters()) mean[i++].lerp_(parameter, 0.3);
      }
      swap();
      {
        at::NoGradGuard no_grad;
        model.net->eval();
        seen.push_back(model.value(loss_of(model, 100 + step)));
        model.net->train();
      }
      swap();
    }
    return seen;
  });
}

TEST_CASE("rates follow a schedule, weights and norms are groups with and without decay") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    Tensors decaying, others;
    for (auto& [name, tensor] : model.named_parameters())
      (name.ends_with(".1.weight") || name == "last.weight" ? decaying : others).push_back(tensor);
    auto first = make(decaying), second = make(others);
    for (auto& group : second->param_groups()) {
      if (auto* options = dynamic_cast<torch::optim::SGDOptions*>(&group.options())) options->weight_decay(0);
      if (auto* options = dynamic_cast<torch::optim::AdamWOptions*>(&group.options()))
        options->weight_decay(0);
    }
    torch::optim::StepLR schedule(*first, 2, 0.5);
    std::vector<double> seen;
    for (int step = 0; step < 5; ++step) {
      first->zero_grad(), second->zero_grad();
      auto loss = loss_of(model, step);
      loss.backward();
      first->step(), second->step();
      schedule.step();
      seen.push_back(model.value(loss));
    }
    return seen;
  });
}

TEST_CASE("a part is frozen, and trains again later") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    auto optimizer = make(model.parameters());
    std::vector<double> seen;
    for (int step = 0; step < 6; ++step) {
      bool freezes = step >= 2 && step < 4;
      for (auto& [name, tensor] : model.named_parameters())
        if (name.starts_with("first") || name.starts_with("blocks0")) tensor.requires_grad_(!freezes);
      optimizer->zero_grad();
      auto loss = loss_of(model, step);
      loss.backward();
      optimizer->step();
      seen.push_back(model.value(loss));
    }
    return seen;
  });
}

TEST_CASE("adapters of low rank begin as nothing and are all that is trained") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    Tensors trained;
    for (auto& [name, tensor] : model.named_parameters()) {
      tensor.requires_grad_(name.starts_with("adapters"));
      if (!tensor.requires_grad()) continue;
      trained.push_back(tensor);
      at::NoGradGuard no_grad;
      if (name.ends_with(".1.weight")) tensor.zero_();
    }
    auto optimizer = make(trained);
    std::vector<double> seen;
    for (int step = 0; step < 4; ++step) {
      optimizer->zero_grad();
      auto loss = loss_of(model, step);
      loss.backward();
      seen.push_back(model.clip(0.5));
      optimizer->step();
      seen.push_back(model.value(loss));
    }
    return seen;
  });
}

TEST_CASE("experts that a step does not use have no gradient and are not stepped") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    auto optimizer = make(model.parameters());
    std::vector<double> seen;
    for (int step = 0; step < 6; ++step) {
      model.net->expert = std::vector{0, 0, 1, -1, 1, 0}[step];
      optimizer->zero_grad();
      auto loss = loss_of(model, step);
      loss.backward();
      optimizer->step();
      seen.push_back(model.value(loss));
    }
    return seen;
  });
}

TEST_CASE("two adversaries train in turn, each frozen while the other learns by it") {
  check(
      [](std::vector<Trained>& models, const MakeOptimizer& make) {
        auto &generator = models[0], &critic = models[1];
        auto first = make(generator.parameters()), second = make(critic.parameters());
        auto train = [](const Trained& model, bool on) {
          for (auto& parameter : model.parameters()) parameter.requires_grad_(on);
        };
        std::vector<double> seen;
        for (int step = 0; step < 3; ++step) {
          auto noise = generator.given(inputs(step)), real = critic.given(targets(step));
          critic.zero_grad();
          auto fake = generator(noise).detach();
          auto told = critic.mean(at::softplus(-critic(real)) + at::softplus(critic(fake)), 8);
          told.backward();
          second->step();

          generator.zero_grad();
          train(critic, false);
          auto fooled = critic.mean(at::softplus(-critic(generator(noise))), 8);
          fooled.backward();
          train(critic, true);
          first->step();
          seen.push_back(critic.value(told)), seen.push_back(generator.value(fooled));
        }
        return seen;
      },
      {{5, 3}, {3, 1}});
}

TEST_CASE("a student learns from a teacher, which is in the same loop and is not trained") {
  check(
      [](std::vector<Trained>& models, const MakeOptimizer& make) {
        auto &teacher = models[0], &student = models[1];
        {
          at::NoGradGuard no_grad;
          for (auto& parameter : student.parameters()) parameter.mul_(0.5);
        }
        auto optimizer = make(student.parameters());
        std::vector<double> seen;
        for (int step = 0; step < 3; ++step) {
          auto x = student.given(inputs(step));
          at::Tensor target;
          {
            at::NoGradGuard no_grad;
            target = teacher(x);
          }
          optimizer->zero_grad();
          auto loss = student.mean((student(x) - target).square(), 24);
          loss.backward();
          optimizer->step();
          seen.push_back(student.value(loss));
        }
        return seen;
      },
      {{5, 3}, {5, 3}});
}

TEST_CASE("the last batch is smaller, and its samples do not go into the ranks") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    auto optimizer = make(model.parameters());
    std::vector<double> seen;
    for (int step = 0; step < 4; ++step) {
      optimizer->zero_grad();
      auto loss = loss_of(model, step, std::vector{8, 7, 3, 2}[step]);
      loss.backward();
      optimizer->step();
      seen.push_back(model.value(loss));
    }
    return seen;
  });
}

TEST_CASE("two losses of one forward go back one after the other, and a step may have none") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    auto optimizer = make(model.parameters());
    std::vector<double> seen;
    for (int step = 0; step < 3; ++step) {
      optimizer->zero_grad();
      auto y = model(model.given(inputs(step)));
      auto both = model.mean((y - model.given(targets(step))).square(), 24) + model.mean(y.sin(), 24);
      if (step != 1) both.backward();
      optimizer->step();
      seen.push_back(model.value(both));
    }
    return seen;
  });
}

TEST_CASE("a loss that throws on one rank is told to the others, and all go on with the next batch") {
  check([](std::vector<Trained>& models, const MakeOptimizer& make) {
    auto& model = models[0];
    auto optimizer = make(model.parameters());
    const auto last = model.world.size() - 1;
    std::vector<double> seen;
    for (int step = 0; step < 4; ++step) {
      const bool is_bad = step % 2 == 1;
      optimizer->zero_grad();
      auto loss = loss_of(model, step);
      try {
        if (is_bad && model.world.rank() == last) throw std::runtime_error("a bad batch");
        loss.backward();
        require(!is_bad, "others have heard of it");
      } catch (const std::runtime_error& error) {
        model.world.fail(error.what());
        require(is_bad && std::string(error.what()).find("a bad batch") != std::string::npos, error.what());
        continue;
      }
      optimizer->step();
      seen.push_back(model.value(loss));
    }
    return seen;
  });
}

TEST_CASE("a rank that ends early is named by the others, at once") {
  for (auto& strategy : strategies())
    on_worlds(
        [&](Communicator world) {
          if (is_one_of_several_processes()) return;
          auto model = strategy.train(Net(5, 3), world);
          for (int step = 0; step < 2; ++step) loss_of(model, step).backward();
          if (world.rank() == 1) return;
          require_error(
              [&] {
                auto loss = loss_of(model, 2);
                loss.backward();
              },
              "rank 1 has already returned");
        },
        {2, 4});
}

}  // namespace loops_test
