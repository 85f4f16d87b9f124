// Pipelines beside one another, each with samples of its own.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn/utils/clip_grad.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/extend/conformance/strategy.hpp>
#include <wanpar/module/clip_grad_norm.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::block_pipeline;
using wanpar::Communicator;
using wanpar::Mesh;

namespace replicas_test {
namespace {

constexpr auto kDouble = at::kDouble;

Mesh two_pipelines(const Communicator& world) { return {world, {{"data", 2}, {"pipe", world.size() / 2}}}; }

at::Tensor squares(const at::Tensor& y, const at::Tensor& target) { return at::mse_loss(y, target); }

wanpar::BlockRange stage_of(const Mesh& mesh, const wanpar::BlockRanges& ranges) {
  return mesh.size("pipe") == 1 ? wanpar::BlockRange{0, 5} : ranges[mesh.index("pipe")];
}

}  // namespace

TEST_CASE("train_step over replicas: loss and gradients of the whole batch, twice in a row") {
  on_worlds(
      [&](Communicator world) {
        auto mesh = two_pipelines(world);
        auto alone = sequential(kDouble), mine = sequential(kDouble);
        auto model = mine | block_pipeline({.stages = mesh["pipe"], .micro_batches = 2});
        auto x = numbers({6, 5}, kDouble), target = numbers({6, 7}, kDouble, 1);
        auto half = [&](const at::Tensor& whole) { return whole.chunk(2)[mesh.index("data")]; };
        for (int twice = 0; twice < 2; ++twice) {  // gradients add up
          auto expected = squares(alone->forward(x), target);
          expected.backward();
          auto loss = model.train_step({half(x)}, half(target), squares, {.replicas = mesh["data"]});
          require_close(loss, expected.detach(), 1e-9, "the loss");
          auto blocks = stage_of(mesh, model.ranges());
          for (auto i = blocks.begin; i < blocks.end; ++i) {
            auto wanted = alone->children()[i]->parameters(), found = mine->children()[i]->parameters();
            for (size_t k = 0; k < wanted.size(); ++k)
              require_close(found[k].grad(), wanted[k].grad(), 1e-9, fmt::format("block {}", i));
          }
        }
      },
      {2, 4, 6});
}

TEST_CASE("gradients are clipped by the norm over all stages, what is outside of blocks counted once") {
  on_worlds(
      [&](Communicator world) {
        auto alone = stacked_model(4, kDouble), mine = stacked_model(4, kDouble);
        auto model =
            mine | block_pipeline({.stages = world, .side = {wanpar::Side::split, wanpar::Side::replicate}});
        auto x = numbers({6, 5}, kDouble), time = numbers({6, 1}, kDouble, 1);
        alone(x, time).square().sum().backward();
        model(x, time).square().sum().backward();
        auto norm = torch::nn::utils::clip_grad_norm_(alone->parameters(), 0.5);
        auto found = wanpar::clip_grad_norm(mine->parameters(), 0.5, world);
        require(std::abs(found - norm) < 1e-9 * norm, fmt::format("a norm of {}, not {}", found, norm));
        auto expected = alone->named_parameters();
        for (auto& item : mine->named_parameters())
          if (item.value().grad().defined())
            require_close(item.value().grad(), expected[item.key()].grad(), 1e-9, item.key());
      },
      {1, 2, 3, 4});
}

TEST_CASE("likewise where each stage's weights are sharded") {
  on_worlds(
      [&](Communicator world) {
        auto mesh = two_pipelines(world);
        auto alone = stacked_model(4, kDouble);
        auto sharded = stacked_model(4, kDouble) | wanpar::sharded_params({.group = mesh["data"]});
        wanpar::Model model =
            wanpar::Model(sharded) | block_pipeline({.stages = mesh["pipe"],
                                                     .micro_batches = 2,
                                                     .side = {wanpar::Side::split, wanpar::Side::replicate}});
        auto x = numbers({6, 5}, kDouble), time = numbers({6, 1}, kDouble, 1);
        alone(x, time).square().sum().backward();
        model(x, time).square().sum().backward();
        auto norm = torch::nn::utils::clip_grad_norm_(alone->parameters(), 0.5);
        auto found = sharded.clip_grad_norm(0.5, mesh["pipe"]);
        require(std::abs(found - norm) < 1e-9 * norm, fmt::format("a norm of {}, not {}", found, norm));
        auto expected = alone->named_parameters();
        for (auto& [name, gradient] : wanpar::conformance::whole_gradients(sharded))
          if (gradient.ne(0).any().item<bool>()) require_close(gradient, expected[name].grad(), 1e-9, name);
      },
      {2, 4, 6});
}

TEST_CASE(
    "weights that are sharded move with their blocks, and cannot be given to the ranks of other stages") {
  on_worlds(
      [&](Communicator world) {
        auto mesh = two_pipelines(world);
        auto alone = stacked_model(4);
        auto model =
            wanpar::Model(stacked_model(4) | wanpar::sharded_params({.group = mesh["data"]})) |
            block_pipeline({.stages = mesh["pipe"], .side = {wanpar::Side::split, wanpar::Side::replicate}});
        auto x = numbers({6, 5}), time = numbers({6, 1}, at::kFloat, 1);
        at::NoGradGuard no_grad;
        for (int twice = 0; twice < 2; ++twice) {
          require_close(model(x, time), alone(x, time), 1e-5, "before and after boundaries move");
          model.rebalance(mesh["data"]);
        }
        require_error([&] { model.synchronize(); }, "synchronize() needs every parameter to have memory");
      },
      {4, 6});
}

TEST_CASE("replicas that are cut differently are refused before their gradients meet") {
  on_worlds(
      [&](Communicator world) {
        auto mesh = two_pipelines(world);
        auto ranges =
            mesh.index("data") ? wanpar::BlockRanges{{0, 1}, {1, 5}} : wanpar::BlockRanges{{0, 2}, {2, 5}};
        auto model = sequential() | block_pipeline({.stages = mesh["pipe"], .ranges = ranges});
        auto train = [&] {
          model.train_step({numbers({6, 5})}, numbers({6, 7}), squares, {.replicas = mesh["data"]});
        };
        require_error(train, "the ranks have different ranges: where rank 0 has [0, 2) [2, 5)");
      },
      {4});
}

}  // namespace replicas_test
