#include "live_bytes.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/strategy/sharded_params.hpp>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Sharding;

namespace live_bytes_test {
namespace {

constexpr int64_t kWidth = 256, kLayers = 7, kUnit = (kWidth * kWidth + kWidth) * 4;
constexpr size_t kLeast = 4 << 10;  // activations are smaller, shards and units are not

/// A layer that leaves one of its weights alone.
struct PartlyUsedImpl : torch::nn::Module {
  PartlyUsedImpl() {
    used = register_parameter("used", torch::randn({kWidth, kWidth}) / 16);
    unused = register_parameter("unused", torch::randn({kWidth}));
  }
  at::Tensor forward(at::Tensor x) { return at::matmul(x, used).tanh(); }
  at::Tensor used, unused;
};
TORCH_MODULE(PartlyUsed);

}  // namespace

TEST_CASE("the allocator has back what a rank is not to hold") {
  on_worlds(
      [](Communicator world) {
        for (auto sharding : {Sharding::full_shard, Sharding::shard_grad_op})
          for (int64_t prefetch : {0, 1, 2}) {
            LiveBytes live(kLeast);
            const auto part = kLayers * ((kUnit + world.size() - 1) / world.size() + 4);
            auto at_most = [&](int64_t bound, const std::string& when) {
              world.barrier();  // peers have taken what was sent to them
              require(live.now() <= bound,
                      fmt::format("{}: {} bytes are live, at most {}", when, live.now(), bound));
            };
            auto module = seeded([] { return perceptron(kWidth, kLayers); });
            require(live.now() >= kLayers * kUnit - kLayers * kWidth * 4, "the module has weights");
            auto sharded =
                module | wanpar::sharded_params({.group = world, .sharding = sharding, .prefetch = prefetch});
            at_most(part, "wrapped");

            auto x = at::ones({2, kWidth});
            auto gradients = int64_t{0};
            for (int step = 0; step < 3; ++step) {
              auto loss = sharded(x).square().mean();
              auto whole = sharding == Sharding::full_shard ? std::min(prefetch + 1, kLayers) : kLayers;
              at_most(part + gradients + whole * kUnit, "after a forward");
              loss.backward();
              gradients = part;
              at_most(part + gradients, "after a backward");
              at::NoGradGuard no_grad;
              sharded(x);
              if (sharding == Sharding::full_shard) at_most(part + gradients, "after an inference");
            }
          }
      },
      {2, 3, 4, 8});
}

TEST_CASE("whole gradients leave one unit after the other, also where a weight of each has none") {
  constexpr int64_t kMany = 16;
  on_worlds(
      [](Communicator world) {
        LiveBytes live(kLeast);
        auto module = seeded([] {
          torch::nn::Sequential layers;
          for (int64_t i = 0; i < kMany; ++i) layers->push_back(PartlyUsed());
          return layers;
        });
        auto sharded = module | wanpar::sharded_params({.group = world, .prefetch = 0});
        const auto part = kMany * ((kUnit + world.size() - 1) / world.size() + 4);
        auto x = at::ones({2, kWidth});
        for (int step = 0; step < 3; ++step) {
          for (auto& shard : sharded.parameters()) shard.mutable_grad().reset();
          auto loss = sharded(x).square().mean();
          live.reset();
          loss.backward();
          // The unit, its gradients, the same flat, those on their way, and what peers have yet to take.
          auto bound = 2 * part + 6 * kUnit;
          require(live.most() <= bound,
                  fmt::format("step {}: {} bytes at most, {} allowed", step, live.most(), bound));
        }
      },
      {2, 4, 8});
}

}  // namespace live_bytes_test
