#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/optim/adamw.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "ranks/worlds.hpp"
#include "samples.hpp"

using wanpar::BatchMode;
using wanpar::Communicator;
using wanpar::DataParallel;
using wanpar::DataParallelOptions;
using wanpar::Model;

namespace {

constexpr int64_t kSmallBucket = 2000;  // several buckets for a Classifier

DataParallel<Model> parallel(Model model, DataParallelOptions options) { return {model, std::move(options)}; }

/// What one rank has: each parameter's gradient, under its name.
std::map<std::string, at::Tensor> gradients(Classifier& model) {
  std::map<std::string, at::Tensor> all;
  for (auto& item : model->named_parameters()) all[item.key()] = item.value().grad();
  return all;
}

void require_same_gradients(Classifier& model, Classifier& expected, const std::string& claim) {
  auto all = gradients(model);
  for (auto& [name, gradient] : gradients(expected)) {
    require(all[name].defined() == gradient.defined(), fmt::format("{}: {} is there", claim, name));
    if (!gradient.defined()) continue;
    auto scale = std::max(1.0, gradient.abs().max().item<double>());
    require_close(all[name], gradient, 1e-10 * scale, claim + ": " + name);
  }
}

at::Tensor part(const at::Tensor& x, const Communicator& world) {
  auto each = x.size(0) / world.size();
  return x.narrow(0, world.rank() * each, each);
}

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
    for (auto mode : {BatchMode::local, BatchMode::whole}) {
      auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
      wanpar::Recording recording;
      auto model = parallel(mine, {.group = recording(world), .mode = mode});
      auto step = [&](int seed) {
        auto x = samples({2 * world.size(), 12}, seed);
        expected(x).square().mean().backward();
        model(mode == BatchMode::whole ? x : part(x, world)).square().mean().backward();
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

TEST_CASE("buckets leave while backward is under way, in the order of use once that is known") {
  on_worlds([](Communicator world) {
    if (world.size() == 1) return;
    auto mine = with_weights(Classifier());
    wanpar::Recording recording;
    auto model = parallel(mine, {.group = recording(world), .mode = BatchMode::local, .bucket_bytes = 1});
    int64_t before_first = 0;  // buckets that left before the first layer had its gradient
    mine->first->weight.register_hook(
        [&](at::Tensor) { before_first = recording.totals()[wanpar::Operation::all_reduce].calls; });
    for (int step = 0; step < 2; ++step) {
      world.barrier();
      recording.clear();
      model(samples({2, 12})).sum().backward();
    }
    auto others = static_cast<int64_t>(mine->parameters().size()) - 2;
    require(before_first >= others, fmt::format("{} of {} buckets left early", before_first, others));
  });
}

TEST_CASE("the payload of a backward is what the formula says") {
  on_worlds([](Communicator world) {
    auto mine = with_weights(Classifier());
    wanpar::Recording recording;
    auto model =
        parallel(mine, {.group = recording(world), .mode = BatchMode::local, .bucket_bytes = kSmallBucket});
    int64_t elements = 0, count = static_cast<int64_t>(mine->parameters().size()), n = world.size();
    for (auto& parameter : mine->parameters()) elements += parameter.numel();
    for (int step = 0; step < 2; ++step) {
      model(samples({2, 12}));  // makes the reducer, which compares the ranks' parameters
      auto loss = model(samples({2, 12})).sum();
      world.barrier();
      recording.clear();
      loss.backward();
      auto totals = recording.totals();
      auto sent = world.all_reduce(at::tensor({totals[wanpar::Operation::all_reduce].bytes})).get();
      auto expected = 2 * (n - 1) * 8 * (elements + 2 * count);
      auto rounding = n * totals[wanpar::Operation::all_reduce].calls;  // of bytes, once a call and rank
      require(std::abs(sent.item<int64_t>() - expected) < std::max<int64_t>(1, rounding),
              fmt::format("{} bytes are {}", sent.item<int64_t>(), expected));
      auto order = world.all_reduce(at::tensor({totals[wanpar::Operation::broadcast].bytes})).get();
      require(order.item<int64_t>() == (step == 0 ? (n - 1) * 8 * count : 0), "the order, once");
    }
  });
}

TEST_CASE("a parameter that a rank does not use is named on every rank, or counts as zero and is reported") {
  on_worlds([](Communicator world) {
    if (world.size() == 1) return;
    for (bool everywhere : {false, true}) {
      auto x = samples({2 * world.size(), 12});
      auto use = [&](Classifier& model, int rank) { model->uses_extra = !everywhere && rank != 1; };
      auto mine = with_weights(Classifier());
      use(mine, world.rank());
      auto strict = parallel(mine, {.group = world, .mode = BatchMode::local, .bucket_bytes = kSmallBucket});
      require_error([&] { strict(part(x, world)).sum().backward(); },
                    "2 of 8 parameters had no gradient on some rank: extra.weight, extra.bias");
      mine->uses_extra = true;
      mine->zero_grad();
      strict(part(x, world)).sum().backward();  // the next one is as if nothing had been

      auto yours = with_weights(Classifier()), expected = with_weights(Classifier());
      use(yours, world.rank());
      auto lenient = parallel(yours, {.group = world,
                                      .mode = BatchMode::local,
                                      .bucket_bytes = kSmallBucket,
                                      .find_unused_parameters = true});
      at::Tensor loss = at::zeros({}, at::kDouble);
      for (int rank = 0; rank < world.size(); ++rank) {
        use(expected, rank);
        loss = loss + expected(x.narrow(0, 2 * rank, 2)).sum() / world.size();
      }
      loss.backward();
      lenient(part(x, world)).sum().backward();
      require_same_gradients(yours, expected, everywhere ? "unused everywhere" : "unused on rank 1");
      require(lenient.unused_parameters() == std::vector<std::string>{"extra.weight", "extra.bias"}, "named");
    }
  });
}

TEST_CASE("frozen parameters are left alone, and may be trained later") {
  on_worlds([](Communicator world) {
    auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
    auto model = parallel(mine, {.group = world});
    auto x = samples({4, 12});
    for (bool trained : {false, true, false}) {
      for (auto* one : {&expected, &mine}) {
        (*one)->zero_grad();
        (*one)->last->weight.requires_grad_(trained);
        (*one)->extra->bias.requires_grad_(trained);
      }
      auto a = expected(x).sum(), b = model(x).sum();
      a.backward(), b.backward();
      require_same_gradients(mine, expected, trained ? "trained" : "frozen");
    }
  });
}

TEST_CASE("a user's own hooks are called, and gradients of inputs may be asked for alone") {
  on_worlds([](Communicator world) {
    auto expected = with_weights(Classifier()), mine = with_weights(Classifier());
    auto model = parallel(mine, {.group = world});
    for (auto* one : {&expected, &mine})
      (*one)->first->weight.register_hook([](at::Tensor gradient) { return gradient * 3; });
    auto x = samples({5, 12}).requires_grad_();
    auto a = torch::autograd::grad({expected(x).sum()}, {x}),
         b = torch::autograd::grad({model(x).sum()}, {x});
    require_close(b[0], a[0], 1e-10, "of the input");
    expected(x).sum().backward(), model(x).sum().backward();
    require_same_gradients(mine, expected, "tripled by the hook");
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

TEST_CASE("buffers become those of rank 0 before each forward of a local batch") {
  on_worlds([](Communicator world) {
    auto mine = with_weights(torch::nn::BatchNorm1d(12));
    auto model = parallel(mine, {.group = world, .mode = BatchMode::local});
    auto step = [&](int seed) {
      model(samples({4, 12}, seed * world.size() + world.rank())).sum().backward();
    };
    step(0);
    if (world.rank() > 0)
      require(!mine->running_mean.equal(world.broadcast(mine->running_mean).get()),
              "each its own statistics");
    else
      (void)world.broadcast(mine->running_mean).get();
    {
      auto pause = model.no_sync();
      step(1);
    }
    mine->eval();
    model(samples({4, 12}));
    require_equal(mine->running_mean, world.broadcast(mine->running_mean).get(), "statistics of rank 0");
    require(mine->num_batches_tracked.item<int64_t>() == 2, "batches");
  });
}

TEST_CASE("what would leave a gradient unshared is refused") {
  on_worlds([](Communicator world) {
    if (world.size() == 1) return;
    auto x = samples({world.size(), 12});
    DataParallelOptions options{.group = world, .mode = BatchMode::local};
    auto fresh = [] { return with_weights(Classifier()); };

    auto mine = fresh();
    auto function = parallel([&](at::Tensor t) { return mine(t); }, options);
    require_error([&] { function(part(x, world)); }, "wrap the module itself, not a function around it");
    auto model = parallel(mine, options);
    require_error([&] { torch::autograd::grad({model(part(x, world)).sum()}, {mine->last->weight}); },
                  "would be those of this rank");
    require_error([&] { model(part(x, world)).sum().backward({}, {}, true); }, "without create_graph");
    mine->zero_grad();  // what create_graph left refers to itself
    auto second = parallel(Model(model), options);
    require_error([&] { second(part(x, world)); },
                  "another DataParallel averages the gradient of first.weight");

    at::Tensor late;
    auto other = fresh();
    late = parallel(other, options)(part(x, world)).sum();
    require_error([&] { late.backward(); }, "of a wrapper that is gone");

    auto embedding = torch::nn::Embedding(torch::nn::EmbeddingOptions(4, 3).sparse(true));
    auto sparse = parallel(embedding, options);
    require_error([&] { sparse(at::arange(2)).sum().backward(); },
                  "make the module's embedding with sparse(false)");

    auto uneven = fresh();
    uneven->last->weight.requires_grad_(world.rank() == 0);
    auto differ = parallel(uneven, options);
    require_error([&] { differ(part(x, world)); },
                  "parameters that need a gradient: the ranks have different");
    world.barrier();
  });
}
