// What checkpointed blocks read and keep beside their arguments and results.
#include <doctest/doctest.h>
#include <torch/autograd.h>
#include <torch/nn.h>
#include <torch/optim/adamw.h>
#include <wanpar/extend/conformance/strategy.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <mutex>

#include "worlds.hpp"

using wanpar::activation_checkpointing;
using wanpar::Communicator;
using wanpar::Model;

namespace beside_results_test {
namespace {

constexpr int64_t kWidth = 8;

/// A mixture of experts, whose balance is a loss that it keeps, and a skip past some blocks.
struct ExpertsImpl : torch::nn::Module {
  ExpertsImpl() {
    gate = register_module("gate", torch::nn::Linear(kWidth, 3));
    expert = register_module("expert", torch::nn::Linear(kWidth, kWidth));
  }
  at::Tensor forward(at::Tensor x) {
    auto p = gate(x / temperature).softmax(1);
    balance = p.mean(0).square().sum() * 2;
    if (from) x = x + from->kept;
    kept = at::tanh(expert(x)) * p.narrow(1, 0, 1);
    return x + kept;
  }
  torch::nn::Linear gate{nullptr}, expert{nullptr};
  double temperature = 1;
  ExpertsImpl* from = nullptr;
  at::Tensor balance, kept;
};
TORCH_MODULE(Experts);

struct NetImpl : torch::nn::Module {
  NetImpl() {
    for (int i = 0; i < 4; ++i) blocks.push_back(register_module("block" + std::to_string(i), Experts()));
  }
  at::Tensor forward(at::Tensor x) { return wanpar::run_blocks(blocks, x); }
  at::Tensor balance() const {
    auto sum = blocks[0]->balance;
    for (size_t i = 1; i < blocks.size(); ++i) sum = sum + blocks[i]->balance;
    return sum;
  }
  std::vector<Experts> blocks;
};
TORCH_MODULE(Net);

at::Tensor some(int seed = 0) {
  return at::randn({5, kWidth}, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble).requires_grad_();
}

Net net() {
  Net made;
  made->to(at::kDouble);
  at::NoGradGuard no_grad;
  int seed = 7;
  for (auto& parameter : made->parameters())
    parameter.copy_(
        at::randn(parameter.sizes(), at::make_generator<at::CPUGeneratorImpl>(seed++), at::kDouble) * 0.4);
  return made;
}

void require_same(Net& mine, Net& expected, const std::string& claim) {
  auto wanted = expected->named_parameters();
  for (auto& item : mine->named_parameters())
    require_close(item.value().grad(), wanted[item.key()].grad(), 1e-9, claim + ": " + item.key());
}

}  // namespace

TEST_CASE("a loss that a block keeps has its gradient, in one backward with the result's or by itself") {
  for (bool at_once : {true, false})
    for (bool skips : {false, true}) {
      auto expected = net(), mine = net();
      for (auto* one : {&expected, &mine})
        if (skips) (*one)->blocks[3]->from = (*one)->blocks[1].get();
      auto wrapped = mine | activation_checkpointing();
      auto train = [at_once](auto& model, Net& module, at::Tensor x) {
        auto y = model(x);
        auto balance = module->balance();
        if (at_once) return (y.square().mean() + balance).backward();
        balance.backward({}, true);
        y.square().mean().backward();
      };
      for (int step = 0; step < 2; ++step) {
        auto x = some(step), y = some(step);
        if (skips && !at_once) {  // when the second backward comes, what is skipped to has been made anew
          require_error([&] { train(wrapped, mine, y); }, "reads what another one keeps");
          break;
        }
        train(expected, expected, x);
        train(wrapped, mine, y);
        require_same(mine, expected, fmt::format("step {}, at once {}, skips {}", step, at_once, skips));
        require_close(y.grad(), x.grad(), 1e-9, "of the input");
      }
    }
}

TEST_CASE("likewise with sharded weights, and with a batch of each rank's own") {
  on_worlds(
      [](Communicator world) {
        auto expected = net();
        auto loss = [](auto& model, Net& module, int rank) {
          auto y = model(some(rank));  // before what it keeps is read
          return y.square().mean() + module->balance();
        };
        for (int rank = 0; rank < world.size(); ++rank)
          (loss(expected, expected, rank) / world.size()).backward();
        auto mine = net();
        auto local = mine | activation_checkpointing() |
                     wanpar::data_parallel({.group = world, .mode = wanpar::BatchMode::local});
        loss(local, mine, world.rank()).backward();
        require_same(mine, expected, "data");

        auto inside = net();
        auto sharded = inside | activation_checkpointing() | wanpar::sharded_params({.group = world});
        loss(sharded, inside, world.rank()).backward();
        auto wanted = expected->named_parameters();
        for (auto& [name, gradient] : wanpar::conformance::whole_gradients(sharded))
          require_close(gradient, wanted[name].grad(), 1e-9, "sharded: " + name);
      },
      {1, 2, 4});
}

TEST_CASE("what a block reads must be the same when it runs again") {
  auto changed = [](const std::function<void(Net&)>& change) {
    auto mine = net();
    auto wrapped = mine | activation_checkpointing();
    auto loss = wrapped(some()).square().mean();
    change(mine);
    loss.backward();
  };
  const std::string told = "gave other values when it ran again";
  require_error([&] { changed([](Net& net) { net->blocks[1]->temperature = 1.001; }); }, told);
  require_error([&] { changed([](Net& net) { net->blocks[2]->expert->weight.data().mul_(1.001); }); }, told);
  require_error(
      [&] {
        changed([](Net& net) {
          torch::optim::AdamW optimizer(net->parameters(), 1e-4);
          for (auto& parameter : net->parameters()) parameter.mutable_grad() = at::ones_like(parameter);
          optimizer.step();
        });
      },
      told);
  changed([](Net&) {});
}

TEST_CASE("a block that runs a part of itself again by its own function is as one that is not checkpointed") {
  struct Again : torch::autograd::Function<Again> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, at::Tensor x,
                              torch::nn::LinearImpl* layer, const at::Tensor& /*anchor*/) {
      context->save_for_backward({x});
      context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
      return at::tanh(layer->forward(x));
    }
    static std::vector<at::Tensor> backward(torch::autograd::AutogradContext* context,
                                            std::vector<at::Tensor> g) {
      auto* layer = reinterpret_cast<torch::nn::LinearImpl*>(context->saved_data["layer"].toInt());
      at::AutoGradMode on(true);
      auto x = context->get_saved_variables()[0].detach().requires_grad_();
      torch::autograd::backward({at::tanh(layer->forward(x))}, {g[0]});
      return {x.grad(), {}, {}};
    }
  };
  struct ByHandImpl : torch::nn::Module {
    explicit ByHandImpl(bool by_hand) : by_hand(by_hand) {
      for (int i = 0; i < 3; ++i)
        layers.push_back(register_module("layer" + std::to_string(i), torch::nn::Linear(kWidth, kWidth)));
      to(at::kDouble);
      at::NoGradGuard no_grad;
      for (auto& parameter : parameters())
        parameter.copy_(at::arange(parameter.numel(), at::kDouble).sin().view_as(parameter));
    }
    at::Tensor forward(at::Tensor x) {
      wanpar::BlockStack stack{3,
                               [this](int64_t i, at::Tensor y, const std::vector<at::Tensor>&) {
                                 return by_hand ? Again::apply(y, layers[i].get(), layers[i]->weight)
                                                : at::tanh(layers[i](y));
                               },
                               [this](int64_t i) { return wanpar::tensors_of(layers[i]); }};
      return wanpar::run_blocks(stack, x, {});
    }
    bool by_hand;
    std::vector<torch::nn::Linear> layers;
  };
  auto check = [](ByHandImpl& mine, ByHandImpl& expected, const std::string& claim) {
    for (size_t i = 0; i < mine.parameters().size(); ++i)
      require_close(mine.parameters()[i].grad(), expected.parameters()[i].grad(), 1e-9, claim);
  };
  auto expected = std::make_shared<ByHandImpl>(false), mine = std::make_shared<ByHandImpl>(true);
  expected->forward(some()).square().mean().backward();
  (mine | activation_checkpointing())(some()).square().mean().backward();
  check(*mine, *expected, "checkpointed");
  on_worlds(
      [&](Communicator world) {
        auto expected = std::make_shared<ByHandImpl>(false), mine = std::make_shared<ByHandImpl>(true);
        for (int rank = 0; rank < world.size(); ++rank)
          (expected->forward(some(rank)).square().mean() / world.size()).backward();
        auto data = mine | wanpar::data_parallel({.group = world, .mode = wanpar::BatchMode::local});
        data(some(world.rank())).square().mean().backward();
        check(*mine, *expected, "a batch of each rank's own");
      },
      {1, 2, 4});
}

TEST_CASE("random numbers go on from where they were, though the second run has failed") {
  int runs = 0;
  auto chain = wanpar::stack_of([](at::Tensor x) { return x; }, 1,
                                [&](int64_t, at::Tensor x, const std::vector<at::Tensor>&) {
                                  auto y = at::dropout(x, 0.5, true);
                                  if (++runs > 1) throw std::runtime_error("out of luck");
                                  return y;
                                },
                                [](at::Tensor x) { return x; });
  torch::manual_seed(5);
  auto loss = (chain | activation_checkpointing())(some()).sum();
  auto state = at::globalContext().defaultGenerator(at::kCPU).get_state();
  CHECK_THROWS(loss.backward());
  CHECK(at::equal(at::globalContext().defaultGenerator(at::kCPU).get_state(), state));
}

}  // namespace beside_results_test
