#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include <chrono>
#include <thread>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::block_pipeline;
using wanpar::Communicator;
using wanpar::Model;
using wanpar::Side;

namespace block_pipeline_test {
namespace {

const std::vector<int> kWorlds{1, 2, 3, 4};

/// A module whose type is known at run time only, so that each kind costs one instantiation.
template <class M>
Model piped(M module, Communicator world, int64_t micro_batches, std::vector<Side> side = {}) {
  return Model(module | block_pipeline({.stages = world, .micro_batches = micro_batches, .side = side}));
}

std::string text(Communicator world, int64_t micro_batches, int64_t batch) {
  return fmt::format("{} stages, {} micro-batches, batch {}", world.size(), micro_batches, batch);
}

}  // namespace

TEST_CASE("a Sequential over stages gives what it gives on one rank, for any batch and micro-batches") {
  auto plain = sequential();
  on_worlds(
      [&](Communicator world) {
        for (bool with_gradients : {false, true})
          for (int64_t micro_batches : {1, 2, 4, 7}) {
            at::AutoGradMode mode(with_gradients);
            auto model = piped(plain, world, micro_batches);
            for (int64_t batch :
                 {8, 7, 3, 1, 8}) {  // fewer samples than micro-batches too; two shapes in a row
              auto x = numbers({batch, 5});
              auto y = model(x);
              require_close(y, plain->forward(x), 1e-6, text(world, micro_batches, batch));
              require(y.requires_grad() == with_gradients, "the result has a history where it should");
            }
          }
        at::InferenceMode inference;
        auto x = numbers({4, 5});
        require_close(piped(plain, world, 2)(x), plain->forward(x), 1e-6, "inference mode");
      },
      kWorlds);
}

TEST_CASE("a module that states its loop is cut there, with side tensors cut or whole as stated") {
  auto plain = stacked_model();
  on_worlds(
      [&](Communicator world) {
        at::NoGradGuard no_grad;
        for (int64_t batch : {6, 5, 2}) {
          auto x = numbers({batch, 5}), time = numbers({batch, 1}, at::kFloat, 1);
          auto model = piped(plain, world, 3, {Side::split, Side::replicate});
          auto bias = numbers({12}, at::kFloat, 2);
          for (int call = 0; call < 2; ++call)
            require_close(model(x, time, bias), plain(x, time, bias), 1e-6, text(world, 3, batch));
          require_close(model(x, time), plain(x, time), 1e-6, "an undefined side tensor");
        }
        auto x = numbers({6, 5}), one = numbers({1, 1});
        require_close(piped(plain, world, 3)(x, one), plain(x, one), 1e-6, "one that cannot be the batch");
        if (world.size() == 1) return;
        require_error(
            [&] {
              piped(plain, world, 3)(x, numbers({6, 1}));
            },
            "state Side::split or Side::replicate");
        require_error(
            [&] {
              piped(plain, world, 3, {Side::split, Side::split})(x, numbers({2, 1}));
            },
            "cannot be cut into micro-batches");
      },
      kWorlds);
}

TEST_CASE("three callables are a module") {
  auto plain = stacked_model(5);
  auto blocks = plain->blocks;
  auto made = wanpar::stack_of(
      [&](at::Tensor x, at::Tensor time) {
        return wanpar::Staged{plain->embed(x), {plain->embed_time(time)}};
      },
      5,
      [blocks](int64_t i, at::Tensor x, const std::vector<at::Tensor>& side) mutable {
        return blocks[i]->forward(x, side[0], {});
      },
      [&](at::Tensor x) { return plain->head(x); });
  on_worlds(
      [&](Communicator world) {
        at::NoGradGuard no_grad;
        auto x = numbers({7, 5}), time = numbers({7, 1});
        require_close(piped(made, world, 4, {Side::split})(x, time), plain(x, time), 1e-6, text(world, 4, 7));
      },
      kWorlds);
}

TEST_CASE("TorchScript is cut at its submodules; what has none is refused") {
  auto plain = scripted(5);
  on_worlds(
      [&](Communicator world) {
        at::NoGradGuard no_grad;
        auto model = piped(plain, world, 2, {Side::split});
        for (int64_t batch : {4, 5})
          for (int call = 0; call < 3; ++call) {
            auto x = numbers({batch, 5}), shift = numbers({batch, 6}, at::kFloat, 1);
            require_close(model(x, shift), plain.forward({x, shift}).toTensor(), 1e-6, text(world, 2, batch));
          }
        require(model.named_parameters().size() == 7, "the parameters are the inner module's");
      },
      kWorlds);

  torch::jit::Module monolith("__torch__.Monolith");
  monolith.define("def forward(self, x):\n  return torch.tanh(x)\n");
  CHECK_THROWS_WITH_AS(monolith | block_pipeline({}),
                       doctest::Contains("this TorchScript module has no blocks"), wanpar::Error);
}

TEST_CASE("a file that Python traced is cut at its submodules") {
  auto plain = torch::jit::load(TEST_DATA "/attention.pt");
  on_worlds(
      [&](Communicator world) {
        at::NoGradGuard no_grad;
        auto x = numbers({3, 9, 48});
        require_close(piped(plain, world, 2)(x), plain.forward({x}).toTensor(), 1e-5, text(world, 2, 3));
      },
      {1, 2});
}

TEST_CASE("ranges are equal, by bytes, by a profile, or given; rebalance moves them to where the time goes") {
  auto plain = sequential();
  using wanpar::BlockRanges;
  on_worlds(
      [&](Communicator world) {
        at::NoGradGuard no_grad;
        auto x = numbers({6, 5});
        auto ranges = [&](wanpar::BlockSplit split) {
          auto model = plain | block_pipeline({.stages = world, .micro_batches = 2, .ranges = split});
          require_close(model(x), plain->forward(x), 1e-6, "uneven stages");
          return model.ranges();
        };
        require(ranges(wanpar::Equally{}) == BlockRanges{{0, 3}, {3, 5}}, "equal");
        require(ranges(wanpar::ByBytes{}) == BlockRanges{{0, 1}, {1, 5}}, "by bytes");
        require(ranges(wanpar::BySeconds{{1, 1, 1, 1, 9}}) == BlockRanges{{0, 4}, {4, 5}}, "by a profile");
        require(ranges(BlockRanges{{0, 1}, {1, 5}}) == BlockRanges{{0, 1}, {1, 5}}, "given");
        require_error([&] { ranges(BlockRanges{{0, 1}, {2, 5}}); }, "should begin at 1");

        auto sleepy =
            wanpar::stack_of([](at::Tensor x) { return x; }, 6,
                             [](int64_t i, at::Tensor x, const std::vector<at::Tensor>&) {
                               std::this_thread::sleep_for(std::chrono::milliseconds(i == 0 ? 40 : 2));
                               return x + 1;
                             },
                             [](at::Tensor x) { return x; });
        auto model = sleepy | block_pipeline({.stages = world, .micro_batches = 2});
        require_error([&] { model.rebalance(); }, "needs a pass");
        for (int call = 0; call < 2; ++call) {
          require_close(model(x), x + 6, 1e-6, "before and after it");
          require(model.rebalance() == BlockRanges{{0, 1}, {1, 6}}, "block 0 takes longest");
        }
      },
      {2});
}

TEST_CASE("what the stages record is idle as little as the schedule allows") {
  for (auto checks : {wanpar::Checks::on, wanpar::Checks::off}) {  // inputs just in time, and ahead
    std::vector<std::vector<wanpar::PipelineEvent>> forward(4), training(4);
    wanpar::local::run(4,
                       [&](Communicator world) {
                         auto model = stacked_model() | block_pipeline({.stages = world, .micro_batches = 8});
                         auto x = numbers({16, 5}), time = numbers({1, 1}), target = numbers({16, 3});
                         for (int call = 0; call < 2; ++call) {
                           at::NoGradGuard no_grad;
                           model(x, time);
                           forward[world.rank()] = model.trace();
                         }
                         for (int call = 0; call < 2; ++call) {
                           model.train_step({x, time}, target,
                                            [](auto y, auto t) { return at::mse_loss(y, t); },
                                            {.replicate = {1}});
                           training[world.rank()] = model.trace();
                         }
                       },
                       {.checks = checks});
    auto ideal = 3.0 / 11.0;
    CHECK(forward[2].size() == 8);
    CHECK(training[2].size() == 16);
    CHECK(wanpar::bubble(wanpar::with_unit_costs(forward)) == doctest::Approx(ideal).epsilon(0.05));
    CHECK(wanpar::bubble(wanpar::with_unit_costs(training)) == doctest::Approx(ideal).epsilon(0.05));
  }
}

TEST_CASE("the payload is that of the formula") {
  on_worlds(
      [&](Communicator world) {
        wanpar::Recording recording;
        at::NoGradGuard no_grad;
        auto model = sequential() | block_pipeline({.stages = recording(world), .micro_batches = 3});
        int64_t between[] = {16, 16, 8, 8, 7}, stages = world.size();
        for (int64_t batch : {7, 2})
          for (int call = 0; call < 2; ++call) {
            recording.clear();
            model(numbers({batch, 5}));
            // The argument, what goes into the blocks, and the result are compared.
            auto expected = 4 * batch * 7 * (stages - 1) + 3 * stages * (stages - 1) * (24 + 16);
            for (int64_t s = 0; s + 1 < stages; ++s)
              expected += 4 * batch * between[model.ranges()[s].end - 1];
            if (call == 0) expected += stages * (stages - 1) * 1024;
            auto bytes = world.all_reduce(at::tensor({recording.total().bytes})).get().item<int64_t>();
            require(bytes == expected,
                    fmt::format("{} bytes left the ranks, {} were expected", bytes, expected));
          }
      },
      {2, 3, 4});
}

TEST_CASE("what cannot be carried out is refused on every rank alike") {
  auto with_norm = [] {
    return torch::nn::Sequential(torch::nn::Linear(5, 4), torch::nn::BatchNorm1d(4), torch::nn::ReLU(),
                                 torch::nn::Linear(4, 4));
  };
  auto learning = with_norm(), learnt = with_norm();
  learnt->eval();
  on_worlds(
      [&](Communicator world) {
        at::NoGradGuard no_grad;
        auto x = numbers({4, 5});
        auto blockless = [](at::Tensor x) { return x + 1; };
        require_error([&] { piped(blockless, world, 2)(x); }, "has no block stack");
        require_error(
            [&] {
              (blockless | block_pipeline({.stages = world})).train_step({x}, x, [](auto y, auto) {
                return y.sum();
              });
            },
            "has no block stack");
        require_error([&] { piped(torch::nn::Sequential(torch::nn::ReLU()), world, 2)(x); },
                      "1 blocks cannot be spread over");
        require_error([&] { piped(stacked_model(3 + world.rank()), world, 2); },
                      "the ranks have different modules");
        require_error([&] { piped(sequential(), world, 0); }, "there must be at least 1");

        auto failing = wanpar::stack_of(
            [](at::Tensor x) { return x; }, 4,
            [](int64_t i, at::Tensor x, const std::vector<at::Tensor>&) { return i == 3 ? x.view({-1}) : x; },
            [](at::Tensor x) { return x; });
        require_error([&] { piped(failing, world, 2)(x); }, "must remain the batch");
        require_close(piped(failing, world, 1)(x), x.view({-1}), 0,
                      "without micro-batches any shape will do");

        require_error([&] { piped(learning, world, 2)(x); }, "as a batch norm in training does");
        require_close(piped(learnt, world, 2)(x), learnt->forward(x), 1e-6,
                      "a batch norm that learns no more");
      },
      {2, 3, 4});
}

}  // namespace block_pipeline_test
