#include <doctest/doctest.h>
#include <torch/optim/adamw.h>
#include <torch/script.h>
#include <wanpar/transport/recording.hpp>

#include <functional>

#include "gradients.hpp"

using wanpar::BatchMode;
using wanpar::Communicator;
using wanpar::Model;

namespace backward_test {
namespace {

/// The losses of some steps of AdamW.
std::vector<double> train(Classifier& model, const std::function<at::Tensor(int step)>& loss_of) {
  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(0.02));
  std::vector<double> losses;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    auto loss = loss_of(step);
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  return losses;
}

void require_losses(const std::vector<double>& actual, const std::vector<double>& expected,
                    double tolerance) {
  require(expected.back() < 0.7 * expected.front(), "the model learns");
  for (size_t i = 0; i < expected.size(); ++i)
    require(std::abs(actual[i] - expected[i]) <= tolerance * std::abs(expected[i]),
            fmt::format("step {}: {} is {}", i, actual[i], expected[i]));
}

}  // namespace

TEST_CASE("local batches: every rank has the gradient of all samples together") {
  on_worlds([](Communicator world) {
    auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
    auto model = parallel(mine, {.group = world, .mode = BatchMode::local, .bucket_bytes = kSmallBucket});
    for (int64_t each : {2, 1, 3}) {  // gradients add up over calls, as on one rank
      auto x = samples({each * world.size(), 12}, static_cast<int>(each));
      expected(x).square().mean().backward();
      model(part(x, world)).square().mean().backward();
      require_same_gradients(mine, expected, fmt::format("{} samples a rank", each));
    }
  });
}

TEST_CASE("whole batches: gradients of parameters and inputs are those of one rank, uneven ones too") {
  on_worlds([](Communicator world) {
    auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
    auto model = parallel(mine, {.group = world, .batch = {0, 1}, .bucket_bytes = kSmallBucket});
    for (int64_t batch : {7, 2, 1, 8}) {
      auto claim = fmt::format("{} samples over {} ranks", batch, world.size());
      auto x = samples({batch, 12}), label = samples({batch, 12}, 1), bias = samples({12}, 2);
      auto inputs = [&] {
        std::vector<at::Tensor> leaves{x.clone(), label.clone(), bias.clone()};
        for (auto& leaf : leaves) leaf.requires_grad_();
        return leaves;
      };
      auto a = inputs(), b = inputs();
      expected(a[0], a[1], a[2]).sin().sum().backward();
      model(b[0], b[1], b[2]).sin().sum().backward();
      require_same_gradients(mine, expected, claim);
      for (int i = 0; i < 3; ++i)
        require_close(b[i].grad(), a[i].grad(), 1e-10, fmt::format("{}: input {}", claim, i));
    }
  });
}

TEST_CASE("20 steps of AdamW have the losses of one rank on the whole batch") {
  for (auto [dtype, tolerance] : {std::pair{at::kDouble, 1e-9}, {at::kFloat, 1e-4}}) {
    auto data = [dtype = dtype](int step) {
      return std::pair(samples({8, 12}, step % 4, dtype), samples({8, 12}, 50 + step % 4, dtype) * 0.3);
    };
    auto plain = with_weights(Classifier(), dtype);
    auto expected = train(plain, [&](int step) {
      auto [x, y] = data(step);
      return at::mse_loss(plain(x), y);
    });
    on_worlds(
        [&, tolerance = tolerance, dtype = dtype](Communicator world) {
          auto mine = with_weights(Classifier(), dtype);
          auto whole = parallel(mine, {.group = world, .bucket_bytes = kSmallBucket});
          require_losses(train(mine,
                               [&](int step) {
                                 auto [x, y] = data(step);
                                 return at::mse_loss(whole(x), y);
                               }),
                         expected, tolerance);
        },
        {1, 2, 3, 4});
    on_worlds(
        [&, tolerance = tolerance, dtype = dtype](Communicator world) {
          if (8 % world.size()) return;
          auto mine = with_weights(Classifier(), dtype);
          auto local =
              parallel(mine, {.group = world, .mode = BatchMode::local, .bucket_bytes = kSmallBucket});
          auto losses = train(mine, [&](int step) {
            auto [x, y] = data(step);
            return at::mse_loss(local(part(x, world)), part(y, world));
          });
          auto mean = world.all_reduce(at::tensor(losses, at::kDouble), wanpar::ReduceOp::mean).get();
          auto* first = mean.const_data_ptr<double>();
          require_losses({first, first + mean.numel()}, expected, tolerance);
        },
        {1, 2, 4});
  }
}

TEST_CASE("under no_sync gradients stay, and the next backward reduces all of them") {
  on_worlds([](Communicator world) {
    for (auto mode : {BatchMode::local, BatchMode::global}) {
      auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
      wanpar::Recording recording;
      auto model = parallel(mine, {.group = recording(world), .mode = mode});
      auto step = [&](int seed) {
        auto x = samples({2 * world.size(), 12}, seed);
        expected(x).square().mean().backward();
        model(mode == BatchMode::global ? x : part(x, world)).square().mean().backward();
      };
      {
        auto pause = model.no_sync();
        world.barrier();
        recording.clear();
        step(0), step(1);
        world.barrier();
        require(recording.totals()[wanpar::Operation::all_reduce].calls == 0, "nothing moves under no_sync");
      }
      step(2);
      require_same_gradients(mine, expected, "after the last of three");
      step(3);
      require_same_gradients(mine, expected, "one more, on top of reduced ones");
    }
  });
}

TEST_CASE("several calls before one backward, and several backwards of one call") {
  on_worlds([](Communicator world) {
    auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
    auto model = parallel(mine, {.group = world, .bucket_bytes = kSmallBucket});
    auto x = samples({5, 12}), y = samples({3, 12}, 1);
    (expected(x).sin().sum() + expected(y).sum()).backward();
    (model(x).sin().sum() + model(y).sum()).backward();
    require_same_gradients(mine, expected, "two calls, one backward");
    auto a = expected(x).sum(), b = model(x).sum();
    for (bool keep : {true, false}) a.backward({}, keep), b.backward({}, keep);
    require_same_gradients(mine, expected, "one call, two backwards");
  });
}

TEST_CASE("a TorchScript file is trained without a change") {
  on_worlds([](Communicator world) {
    auto plain = torch::jit::load(TEST_DATA "/attention.pt"),
         mine = torch::jit::load(TEST_DATA "/attention.pt");
    Model expected = plain;
    auto model = parallel(mine, {.group = world, .bucket_bytes = kSmallBucket});
    for (int step = 0; step < 3; ++step) {
      auto x = samples({5, 4, 48}, step, at::kFloat);
      expected(x).square().mean().backward(), model(x).square().mean().backward();
    }
    auto theirs = expected.named_parameters();
    for (auto& [name, parameter] : model.named_parameters()) {
      require_close(parameter.grad(), theirs[0].tensor.grad(), 1e-5, name);
      theirs.erase(theirs.begin());
    }
  });
}

}  // namespace backward_test
