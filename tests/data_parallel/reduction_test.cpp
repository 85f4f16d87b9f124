#include <doctest/doctest.h>
#include <torch/autograd.h>
#include <wanpar/transport/recording.hpp>

#include "gradients.hpp"

using wanpar::BatchMode;
using wanpar::Communicator;
using wanpar::DataParallelOptions;
using wanpar::Model;

namespace reduction_test {

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
      // Where a library's all-reduce is booked by its formula, each rank's part is rounded down.
      auto rounding = is_one_of_several_processes() ? n * totals[wanpar::Operation::all_reduce].calls : 0;
      require(std::abs(sent.item<int64_t>() - expected) <= rounding,
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
      auto train = [&] { strict(part(x, world)).sum().backward(); };
      if (everywhere) {
        train();
        require(!mine->extra->weight.grad().defined(), "where no rank uses it nothing is in the way");
      } else {
        require_error(train,
                      "2 of 8 parameters had no gradient on some rank, and one on another: extra.weight, "
                      "extra.bias");
      }
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

}  // namespace reduction_test
