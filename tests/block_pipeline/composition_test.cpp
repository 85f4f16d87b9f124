#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "block_pipeline/models.hpp"
#include "models/attention_model.hpp"
#include "worlds.hpp"

using namespace wanpar::conformance::models;

using wanpar::Model;

namespace composition_test {

TEST_CASE("blocks over stages and their tokens over ranks, either one inside of the other") {
  auto lock = seeded(6);
  AttentionModel plain(AttentionModelOptions{.layers = 4});
  lock.unlock();
  auto stacked = wanpar::stack_of(
      [](at::Tensor x, at::Tensor context) {
        return wanpar::Staged{x, {context}};
      },
      4,
      [plain](int64_t i, at::Tensor x, const std::vector<at::Tensor>& side) mutable {
        return plain->blocks[i]->forward(x, side[0], {});
      },
      [](at::Tensor x) { return x; });
  on_worlds(
      [&](wanpar::Communicator world) {
        at::NoGradGuard no_grad;
        wanpar::Mesh mesh(world, {{"pipe", 2}, {"ulysses", 2}});
        auto pipeline = wanpar::block_pipeline(
            {.stages = mesh["pipe"], .micro_batches = 2, .side = {wanpar::Side::split}});
        auto tokens = wanpar::sequence_parallel(
            {.ulysses = mesh["ulysses"], .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
        auto called = [](auto model) {
          return Model([model](at::Tensor x, at::Tensor context) mutable { return model(x, context); });
        };
        Model both[] = {called(called(stacked | pipeline) | tokens),
                        called(called(stacked | tokens) | pipeline)};
        for (auto& model : both)
          for (int64_t length : {8, 5, 8}) {
            auto x = numbers({3, length, 48}), context = numbers({3, 4, 48}, at::kFloat, 1);
            require_close(model(x, context), plain(x, context), 1e-5, fmt::format("{} tokens", length));
          }
      },
      {4});
}

}  // namespace composition_test
