#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/recording.hpp>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;
using wanpar::Operation;
using wanpar::Sharding;

namespace memory_test {
namespace {

constexpr int64_t kWidth = 32, kLayers = 7;

/// Bytes of the parameters' storages as LibTorch sees them, and the most that they came to.
struct Scales : wanpar::OperatorHandler {
  explicit Scales(wanpar::NamedTensors parameters) : parameters(std::move(parameters)) {}
  int64_t now() const {
    int64_t sum = 0;
    for (auto& [name, tensor] : parameters) sum += static_cast<int64_t>(tensor.storage().nbytes());
    return sum;
  }
  wanpar::Tensors around(const wanpar::Operator& op, const Next& next) override {
    most = std::max(most, now());
    return next(op);
  }
  wanpar::NamedTensors parameters;
  int64_t most = 0;
};

struct Bytes {
  int64_t total = 0, largest = 0;
};

Bytes bytes_of(const torch::nn::Sequential& module) {
  Bytes bytes;
  for (auto& child : module->children()) {
    int64_t unit = 0;
    for (auto& parameter : child->parameters()) unit += static_cast<int64_t>(parameter.nbytes());
    bytes.total += unit;
    bytes.largest = std::max(bytes.largest, unit);
  }
  return bytes;
}

}  // namespace

TEST_CASE("a rank never holds more than its part and prefetch + 1 units, in forward and in backward") {
  on_worlds(
      [](Communicator world) {
        for (int64_t prefetch : {0, 1, 2}) {
          auto module = seeded([] { return perceptron(kWidth, kLayers); });
          auto bytes = bytes_of(module);
          Scales scales(wanpar::named_parameters(module));
          auto sharded = module | wanpar::sharded_params({.group = world, .prefetch = prefetch});
          auto part = (bytes.total + world.size() - 1) / world.size() + kLayers * 4;
          auto bound = part + (prefetch + 1) * bytes.largest;
          auto check = [&](const std::string& when) {
            auto memory = sharded.memory();
            require(memory.shards <= part,
                    fmt::format("{} bytes of shards are at most {}", memory.shards, part));
            require(memory.shards + memory.peak <= bound,
                    fmt::format("{}: {} + {} bytes are at most {}", when, memory.shards, memory.peak, bound));
            require(memory.shards + scales.most <= bound, when + ": as the storages say");
            require(scales.most >= bytes.largest, "a unit was whole at some time");
          };
          require(scales.now() == 0, "nothing is whole before the first forward");
          auto x = at::ones({4, kWidth}).requires_grad_();
          for (int run = 0; run < 3; ++run) {
            at::Tensor loss;
            {
              wanpar::Scope watch(scales);
              loss = sharded(x).square().mean();
              check("forward");
              loss.backward();
            }
            check("backward");
            require(scales.now() == 0 && sharded.memory().resident == 0, "nothing is whole after a backward");
            at::NoGradGuard no_grad;
            sharded(x);
            require(scales.now() == 0, "nothing is whole after an inference");
          }
        }
      },
      {2, 3, 4, 8});
}

TEST_CASE("the payload is what the formula says") {
  on_worlds(
      [](Communicator world) {
        const int64_t n = world.size(), unit = (kWidth * kWidth + kWidth) * 4, whole = kLayers * unit;
        for (auto sharding : {Sharding::full_shard, Sharding::shard_grad_op})
          for (int64_t prefetch : {0, 1, 2, 20}) {
            wanpar::Recording recording;
            auto sharded = seeded([] { return perceptron(kWidth, kLayers); }) |
                           wanpar::sharded_params(
                               {.group = recording(world), .sharding = sharding, .prefetch = prefetch});
            auto sent = [&](Operation operation) {
              auto bytes = recording.totals()[operation].bytes;
              return world.all_reduce(at::tensor({bytes})).get().item<int64_t>();
            };
            auto x = at::ones({4, kWidth});
            for (int run = 0; run < 3; ++run) {
              recording.clear();
              sharded(x).square().mean().backward();
              auto still_here = std::min(prefetch + 1, kLayers) * unit;
              auto again = sharding == Sharding::full_shard ? whole - still_here : 0;
              auto gathered = sent(Operation::all_gather), reduced = sent(Operation::reduce_scatter);
              require(gathered == (n - 1) * (whole + again),
                      fmt::format("{} bytes are gathered, {} expected", gathered, (n - 1) * (whole + again)));
              require(reduced == (n - 1) * whole, fmt::format("{} bytes are reduced", reduced));
            }
            at::NoGradGuard no_grad;
            sharded(x);
            recording.clear();
            sharded(x);
            require(sent(Operation::all_gather) == (n - 1) * whole, "inference");
          }
      },
      {2, 3, 4, 6, 8});
}

}  // namespace memory_test
