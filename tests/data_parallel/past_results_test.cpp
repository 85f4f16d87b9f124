// Gradients that come to parameters otherwise than by one backward of one result.
#include <doctest/doctest.h>
#include <torch/autograd.h>
#include <torch/optim/sgd.h>

#include "gradients.hpp"

using wanpar::BatchMode;
using wanpar::Communicator;

namespace past_results_test {
namespace {

/// Keeps a loss, and gives nothing that has a gradient, or what has one of its own.
struct KeepingImpl : torch::nn::Module {
  explicit KeepingImpl(bool detaches) : detaches(detaches) {
    first = register_module("first", torch::nn::Linear(12, 6));
    last = register_module("last", torch::nn::Linear(6, 2));
  }
  at::Tensor forward(at::Tensor x) {
    auto h = at::tanh(first(x));
    loss = h.square().mean() * 3;
    auto y = last(h);
    return detaches ? y.detach() : y;
  }
  bool detaches;
  torch::nn::Linear first{nullptr}, last{nullptr};
  at::Tensor loss;
};
TORCH_MODULE(Keeping);

void require_means(Keeping& mine, Keeping& expected, const std::string& claim) {
  auto wanted = expected->named_parameters();
  for (auto& item : mine->named_parameters()) {
    auto gradient = wanted[item.key()].grad();
    require(gradient.defined() == item.value().grad().defined(), claim + ": " + item.key());
    if (gradient.defined()) require_close(item.value().grad(), gradient, 1e-9, claim + ": " + item.key());
  }
}

}  // namespace

TEST_CASE(
    "a loss that the module keeps is averaged like any other, alone, beside the result, and behind it") {
  on_worlds(
      [](Communicator world) {
        for (int way = 0; way < 4; ++way) {
          auto expected = with_weights(Keeping(way == 0)), mine = with_weights(Keeping(way == 0));
          auto model =
              mine | wanpar::data_parallel({.group = world, .mode = BatchMode::local, .bucket_bytes = 64});
          auto backward = [way](at::Tensor y, at::Tensor loss, double scale) {
            if (way == 0) return (loss * scale).backward();
            if (way == 1) return ((y.sin().mean() + loss) * scale).backward();
            if (way == 2) (loss * scale).backward({}, true), (y.sin().mean() * scale).backward();
            if (way == 3) (y.sin().mean() * scale).backward({}, true), (loss * scale).backward();
          };
          for (int step = 0; step < 2; ++step) {
            auto batch = [&](int rank) { return samples({3, 12}, 10 * step + rank); };
            for (int rank = 0; rank < world.size(); ++rank) {
              auto y = expected(batch(rank));
              backward(y, expected->loss, 1.0 / world.size());
            }
            auto y = model(batch(world.rank()));
            backward(y, mine->loss, 1);
            require_means(mine, expected, fmt::format("way {}, step {}", way, step));
          }
        }
      },
      {1, 2, 4});
}

TEST_CASE("a loss that a module keeps of its part of a whole batch is refused") {
  on_worlds(
      [](Communicator world) {
        for (bool detaches : {true, false}) {
          auto mine = with_weights(Keeping(detaches));
          auto model = mine | wanpar::data_parallel({.group = world});
          auto x = samples({2 * world.size(), 12});
          require_error([&] { model(x); }, "the module keeps a tensor with a history");
          at::NoGradGuard no_grad;
          require_close(model(x), mine(x), 1e-12, "without gradients");
        }
      },
      {2, 3});
}

TEST_CASE("a penalty on weights, and one on the gradients of inputs, are those of one rank") {
  on_worlds(
      [](Communicator world) {
        auto expected = with_weights(Keeping(false)), mine = with_weights(Keeping(false));
        auto model = mine | wanpar::data_parallel({.group = world, .mode = BatchMode::local});
        auto penalty = [](at::Tensor y, at::Tensor x) {
          return torch::autograd::grad({y.sin().sum()}, {x}, {}, {}, true)[0].square().mean();
        };
        auto batch = [&](int rank) { return samples({3, 12}, rank).requires_grad_(); };
        for (int rank = 0; rank < world.size(); ++rank) {
          auto x = batch(rank);
          auto y = expected(x);
          (penalty(y, x) / world.size()).backward({}, true);
          (y.square().mean() / world.size()).backward();
        }
        expected->last->weight.square().sum().backward();
        auto x = batch(world.rank());
        auto y = model(x);
        penalty(y, x).backward({}, true);
        y.square().mean().backward();
        mine->last->weight.square().sum().backward();
        require_means(mine, expected, "penalties");
      },
      {1, 2, 3});
}

TEST_CASE("no_sync is about backwards, and nests") {
  on_worlds(
      [](Communicator world) {
        auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
        auto model = parallel(mine, {.group = world, .mode = BatchMode::local});
        auto x = samples({2 * world.size(), 12});
        at::Tensor loss;
        {
          auto outer = model.no_sync();
          { auto inner = model.no_sync(); }
          model(part(x, world)).square().mean().backward();
          expected(part(x, world)).square().mean().backward();
          require_same_gradients(mine, expected, "left alone, though the inner one has ended");
          loss = model(part(x, world)).sin().mean();
        }
        mine->zero_grad(), expected->zero_grad();
        loss.backward();
        expected(x).sin().mean().backward();
        require_same_gradients(mine, expected, "a backward outside of it, of a forward inside");
      },
      {1, 2, 4});
}

TEST_CASE(
    "a leaf that comes to take part later is refused, and a backward through a whole batch differentiates "
    "once") {
  on_worlds(
      [](Communicator world) {
        auto mine = with_weights(Classifier());
        struct LateImpl : torch::nn::Module {
          explicit LateImpl(Classifier inner) : inner(register_module("inner", inner)) {}
          at::Tensor forward(at::Tensor x) { return extra.defined() ? inner(x) * extra : inner(x); }
          Classifier inner;
          at::Tensor extra;
        };
        auto module = std::make_shared<LateImpl>(mine);
        auto model = module | wanpar::data_parallel({.group = world});
        auto x = samples({4, 12}).requires_grad_();
        model(x).sum().backward();
        require_error([&] { torch::autograd::grad({model(x).sum()}, {x}, {}, {}, true); },
                      "without create_graph");
        module->extra = at::ones({12}, at::kDouble).requires_grad_();
        require_error([&] { model(x); }, "is no parameter of the module");
      },
      {2, 3});
}

TEST_CASE("batch norm may see two batches before one backward, and statistics go on as those of rank 0") {
  on_worlds(
      [](Communicator world) {
        auto make = [] { return torch::nn::Sequential(torch::nn::Linear(12, 6), torch::nn::BatchNorm1d(6)); };
        auto expected = with_weights(make()), mine = with_weights(make());
        auto model = mine | wanpar::data_parallel({.group = world, .mode = BatchMode::local});
        for (int step = 0; step < 2; ++step) {
          auto batch = [&](int rank, int which) { return samples({4, 12}, 100 * step + 2 * rank + which); };
          auto loss = [](at::Tensor a, at::Tensor b) { return a.sin().mean() + b.square().mean(); };
          for (int rank = 0; rank < world.size(); ++rank)
            (loss(expected->forward(batch(rank, 0)), expected->forward(batch(rank, 1))) / world.size())
                .backward();
          auto real = model(batch(world.rank(), 0));
          auto fake = model(batch(world.rank(), 1));
          loss(real, fake).backward();
          for (size_t i = 0; i < mine->parameters().size(); ++i)
            require_close(mine->parameters()[i].grad(), expected->parameters()[i].grad(), 1e-9,
                          "two batches");
        }
      },
      {1, 2, 3});
}

}  // namespace past_results_test
