// What ranks must have alike is compared when a module is wrapped, and told on every rank.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;

namespace different_ranks_test {

TEST_CASE("SequenceParallel refuses ranks with different modules, on every rank of the grid") {
  on_worlds(
      [](Communicator world) {
        wanpar::Mesh mesh(world, {{"ring", 2}, {"ulysses", world.size() / 2}});
        for (int odd = 0; odd < world.size(); ++odd) {
          auto width = world.rank() == odd ? 9 : 8;
          require_error(
              [&] {
                Model(torch::nn::Linear(8, width)) |
                    wanpar::sequence_parallel(
                        {.ulysses = mesh["ulysses"], .ring = mesh["ring"], .min_share = 1});
              },
              "SequenceParallel: the ranks have different modules: where rank 0 has weight Float");
        }
        Model(torch::nn::Linear(8, 8)) | wanpar::sequence_parallel({.ring = world, .min_share = 1});
        Model([](at::Tensor x) { return x; }) | wanpar::sequence_parallel({.ring = world, .min_share = 1});
      },
      {2, 4, 6});
  torch::nn::Linear shared(8, 8);
  on_worlds([&](Communicator world) {
    Model(shared) | wanpar::sequence_parallel({.ulysses = world, .min_share = 1});
  });
}

TEST_CASE("BlockPipeline names the parameter, or the option, in which ranks differ") {
  on_worlds(
      [](Communicator world) {
        auto last = world.rank() == world.size() - 1;
        auto wrap = [&](int64_t width, wanpar::BlockPipelineOptions options) {
          options.stages = world;
          torch::nn::Sequential model(torch::nn::Linear(4, 4), torch::nn::Linear(4, 4),
                                      torch::nn::Linear(4, width));
          model | wanpar::block_pipeline(std::move(options));
        };
        require_error([&] { wrap(last ? 5 : 4, {}); }, "has 2.weight Float[5, 4]");
        require_error(
            [&] { wrap(4, {.micro_batches = last ? 3 : 2}); },
            fmt::format("where rank 0 has micro_batches 2, rank {} has micro_batches 3", world.size() - 1));
        auto side = last ? wanpar::Side::split : wanpar::Side::replicate;
        require_error([&] { wrap(4, {.side = {side}}); }, "has side 0 replicate, rank");
        wrap(4, {});
      },
      {2, 3});
}

TEST_CASE("ranks with different options are told of the first that differs") {
  on_worlds(
      [](Communicator world) {
        bool is_odd = world.rank() == 1;
        auto refused = [](const auto& strategy, const std::string& sentence) {
          require_error([&] { Model(torch::nn::Linear(8, 8)) | strategy; }, sentence);
        };
        refused(
            wanpar::sequence_parallel({.ulysses = world, .split = {{.dim = is_odd ? 2 : 1}}, .min_share = 1}),
            "SequenceParallel: the ranks have different options: where rank 0 has split argument 0, "
            "dimension 1, rank 1 has split argument 0, dimension 2");
        refused(wanpar::data_parallel({.group = world, .bucket_bytes = is_odd ? 0 : 100}),
                "DataParallel: the ranks have different options: where rank 0 has bucket_bytes 100, rank 1");
        refused(
            wanpar::sharded_params({.group = world, .units = {is_odd ? "none" : "weight"}}),
            "ShardedParams: the ranks have different options: where rank 0 has units [\"weight\"], rank 1");
      },
      {2, 3});
}

}  // namespace different_ranks_test
