// A rank that throws in its forward ends all ranks at once, under every strategy, and all can go on.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/core/error.hpp>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <chrono>
#include <mutex>

#include "shapes.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;

namespace failures_test {
namespace {

/// Fails in one of its blocks when it is told to.
struct FailingImpl : shapes::BodyImpl {
  at::Tensor forward(at::Tensor x) {
    return wanpar::run_blocks(
        wanpar::BlockStack{static_cast<int64_t>(blocks.size()),
                           [this](int64_t i, at::Tensor y, const std::vector<at::Tensor>&) {
                             if (i == fail_in) throw std::runtime_error("out of something");
                             return blocks[i]->forward(y);
                           },
                           [this](int64_t i) { return wanpar::tensors_of(blocks[i]); }},
        x, {}, [this](at::Tensor y) {
          if (fail_in == 4) throw wanpar::Error("out of something");
          return y;
        });
  }
  int64_t fail_in = -1;
};
TORCH_MODULE(Failing);

Failing made() {
  static std::mutex generator;
  std::lock_guard lock(generator);
  torch::manual_seed(2);
  return {};
}

/// Fails when all of it has run.
struct FailingIn {
  Failing inner;
  std::shared_ptr<bool> fails;
  at::Tensor operator()(at::Tensor x) {
    auto y = inner->forward(x);
    if (*fails) throw wanpar::Error("in the tail");
    return y;
  }
  auto named_parameters() { return inner->named_parameters(); }
};

at::Tensor input() { return at::randn({6, 8, 8}, at::make_generator<at::CPUGeneratorImpl>(3)); }

using Wrap = std::function<Model(Failing, Communicator)>;

/// On each rank in turn, in a first pass and in a later one, with gradients and without.
void require_ends_all(const std::string& name, const Wrap& wrap, const std::vector<int>& worlds = {2, 3, 4},
                      std::vector<int64_t> places = {0, 2, 4}) {
  on_worlds(
      [&](Communicator world) {
        for (bool trains : {false, true})
          for (int odd = 0; odd < world.size(); ++odd)
            for (auto place : places) {
              at::AutoGradMode mode(trains);
              auto module = made();
              auto model = wrap(module, world);
              auto expected = made()->forward(input());
              for (bool is_first : {true, false}) {
                auto where = fmt::format("{}, rank {} in block {}, {} pass{}", name, odd, place,
                                         is_first ? "first" : "later", trains ? ", with gradients" : "");
                if (!is_first) require_close(model(input()), expected, 1e-5, where + ": before");
                module->fail_in = world.rank() == odd ? place : -1;
                auto begin = std::chrono::steady_clock::now();
                std::string said;
                try {
                  auto y = model(input());
                  world.barrier();  // where a forward waits for nobody, the next call does
                } catch (const std::exception& error) {
                  said = error.what();
                }
                require(said.find("out of something") != std::string::npos, where + " says '" + said + "'");
                std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
                require(took.count() < 10, fmt::format("{}: {} s", where, took.count()));
                module->fail_in = -1;
                require_close(model(input()), expected, 1e-5, where + ": behind");
              }
            }
      },
      worlds);
}

}  // namespace

TEST_CASE("SequenceParallel") {
  require_ends_all("ring", [](Model model, Communicator world) {
    return model |
           wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
  });
  require_ends_all("ring x ulysses",
                   [](Model model, Communicator world) {
                     wanpar::Mesh mesh(world, {{"ring", 2}, {"ulysses", 2}});
                     return model | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                                               .ring = mesh["ring"],
                                                               .split = {{.arg = 0, .dim = 1}},
                                                               .min_share = 1});
                   },
                   {4}, {0, 4});
}

TEST_CASE("ShardedParams") {
  for (auto sharding : {wanpar::Sharding::full_shard, wanpar::Sharding::no_shard})
    require_ends_all("sharded", [=](Model model, Communicator world) {
      return model | wanpar::sharded_params({.group = world, .sharding = sharding});
    });
}

TEST_CASE("DataParallel") {
  require_ends_all("the whole batch", [](Model model, Communicator world) {
    return model | wanpar::data_parallel({.group = world});
  });
  require_ends_all("batches of one's own", [](Model model, Communicator world) {
    return model | wanpar::data_parallel({.group = world, .mode = wanpar::BatchMode::local});
  });
}

TEST_CASE("strategies in one another") {
  require_ends_all(
      "sharded | sequence",
      [](Model model, Communicator world) {
        return model | wanpar::sharded_params({.group = world}) |
               wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
      },
      {2, 3}, {2, 4});
  require_ends_all("sequence | data",
                   [](Model model, Communicator world) {
                     wanpar::Mesh mesh(world, {{"data", 2}, {"ring", world.size() / 2}});
                     return model |
                            wanpar::sequence_parallel(
                                {.ring = mesh["ring"], .split = {{.arg = 0, .dim = 1}}, .min_share = 1}) |
                            wanpar::data_parallel({.group = mesh["data"]});
                   },
                   {2, 4}, {2, 4});
}

TEST_CASE("a rank that fails when all of a forward has run is with the others in the next one") {
  on_worlds(
      [](Communicator world) {
        at::NoGradGuard no_grad;
        auto serve = [&](const std::string& name, bool compares_results,
                         const std::function<Model(FailingIn, Communicator)>& wrap) {
          auto module = FailingIn{made(), std::make_shared<bool>(false)};
          auto bare = made();
          auto model = wrap(module, world);
          for (int request = 0; request < 8; ++request) {
            auto x = input() * (request + 1);
            const bool is_odd = request == 2 || request == 3 || request == 6;
            *module.fails = world.rank() == 1 && is_odd;
            if (*module.fails || (compares_results && is_odd))
              require_error([&] { model(x); }, "in the tail");
            else
              require_close(model(x), bare->forward(x), 1e-4, fmt::format("{}, request {}", name, request));
          }
        };
        serve("pipeline", true, [](FailingIn module, Communicator world) {
          return Model(module | wanpar::block_pipeline({.stages = world, .micro_batches = 2}));
        });
        serve("sharded", false, [](FailingIn module, Communicator world) {
          return Model(module | wanpar::sharded_params({.group = world}));
        });
      },
      {2, 3});
}

TEST_CASE("BlockPipeline, where a stage runs its own blocks alone") {
  on_worlds(
      [](Communicator world) {
        for (bool trains : {false, true})
          for (int64_t place : {0, 3, 4})
            for (bool is_first : {true, false}) {
              at::AutoGradMode mode(trains);
              auto module = made();
              auto model = module | wanpar::block_pipeline({.stages = world, .micro_batches = 2});
              auto expected = made()->forward(input());
              auto where = fmt::format("block {}, first {}, trains {}", place, is_first, trains);
              if (!is_first) require_close(model(input()), expected, 1e-5, where);
              module->fail_in = place;  // what is behind the blocks runs on every rank
              require_error_of_any_kind([&] { model(input()); }, "out of something");
              module->fail_in = -1;
              require_close(model(input()), expected, 1e-5, where + ", behind");
            }
        auto module = made();
        auto model = module | wanpar::block_pipeline({.stages = world, .micro_batches = 2});
        auto step = [&] {
          return model.train_step({input()}, input(),
                                  [](at::Tensor y, at::Tensor t) { return at::mse_loss(y, t); });
        };
        for (bool is_first : {true, false}) {
          if (!is_first) step();
          for (int64_t place : {0, 3, 4}) {
            module->fail_in = place;
            require_error_of_any_kind([&] { step(); }, "out of something");
          }
          module->fail_in = -1;
        }
        auto loss = step();
        auto expected = at::mse_loss(made()->forward(input()), input());
        require_close(loss, expected.detach().to(at::kDouble), 1e-5, "a step behind them");
      },
      {2, 3, 4});
}

}  // namespace failures_test
