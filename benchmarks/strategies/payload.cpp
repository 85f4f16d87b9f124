#include <fmt/format.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>

#include "limits.hpp"
#include "tables.hpp"

using wanpar::Communicator;
using wanpar::even_sizes;
using wanpar::Model;

namespace {

constexpr int64_t kElement = 4, kChannels = 8;

/// Tokens and heads that go into every number of ranks of the table, or into none.
struct Size {
  const char* name;
  int64_t tokens, heads, width;
};
constexpr Size kEven{"even", 96, 16, 48}, kUneven{"uneven", 37, 6, 37};

/// Bytes that one rank is to send, and a step that sends them.
struct Case {
  double bytes;
  std::function<void(const Communicator& counted)> step;
};
using MakeCase = std::function<Case(const Size&, const Communicator& world)>;

/// Forward and backward of one attention, its tokens over ring x ulysses ranks; queries, keys and values are
/// the same tensor. Forward sends for Ulysses three tensors there and one back, for the ring keys and values
/// of all but the next rank; backward the same again and the ring's gradients all the way round. Cutting and
/// gathering send the rank's tokens to all others.
Case sequence(const Size& size, const Communicator& world, int ulysses) {
  const int ring = world.size() / ulysses, place = world.rank() / ulysses, mine = world.rank() % ulysses;
  auto each = even_sizes(size.tokens, world.size());  // ulysses fastest
  auto of_group = [&](int at) {
    return std::accumulate(each.begin() + at * ulysses, each.begin() + (at + 1) * ulysses, int64_t{0});
  };
  auto own = each[world.rank()], group = of_group(place);
  auto heads = even_sizes(size.heads, ulysses)[mine];
  const double unit = kElement * kChannels;
  double there = unit * static_cast<double>(own * (size.heads - heads));
  double back = unit * static_cast<double>((group - own) * heads);
  double attention = 3 * there + back + 3 * back + there;
  if (ring > 1) {
    auto next = of_group((place + 1) % ring);
    attention += 2 * 2 * unit * static_cast<double>(heads * (size.tokens - next));
    attention += 2 * unit * static_cast<double>(heads * size.tokens);
  }
  double joined =
      unit * static_cast<double>(size.heads) * static_cast<double>(own * (ulysses - 1) + group * (ring - 1));
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {attention + 2 * joined, [=](const Communicator& counted) {
            wanpar::Mesh mesh(counted, {{"ring", ring}, {"ulysses", ulysses}});
            auto attend = [](at::Tensor x) { return at::scaled_dot_product_attention(x, x, x); };
            if (!*wrapped)
              wrapped->emplace(attend | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                                                   .ring = mesh["ring"],
                                                                   .split = {{.arg = 0, .dim = 2}}}));
            auto x = random({1, size.heads, size.tokens, kChannels}, at::kFloat).requires_grad_();
            (**wrapped)(x).sum().backward();
          }};
}

constexpr int64_t kLayers = 5;

torch::nn::Sequential perceptron(int64_t width) {
  torch::nn::Sequential model;
  for (int64_t i = 0; i < kLayers; ++i) model->push_back(torch::nn::Linear(width, width));
  return model;
}

/// Bytes of an all-reduce: a rank's elements that others reduce, and what it reduced itself to all others.
double all_reduced(int64_t elements, int64_t width, const Communicator& world) {
  auto own = even_sizes(elements, world.size())[world.rank()];
  return static_cast<double>(width * (elements - own + (world.size() - 1) * own));
}

int64_t padded(int64_t elements) { return (elements + 15) / 16 * 16; }  // to 64 bytes

/// A unit is gathered whenever it comes, and its gradients are scattered once; a backward ends with eight
/// bytes for each flat parameter and sixteen besides.
Case sharded(const Size& size, const Communicator& world, wanpar::Sharding sharding) {
  const int n = world.size();
  auto unit = padded(size.width * size.width) + padded(size.width);
  auto own = even_sizes(unit, n)[world.rank()];
  auto gathers = sharding == wanpar::Sharding::full_shard ? 2 * kLayers - 2 : kLayers;
  auto bytes = static_cast<double>(kElement * (own * (n - 1) * gathers + (unit - own) * kLayers));
  if (sharding == wanpar::Sharding::no_shard) bytes = kLayers * all_reduced(unit, kElement, world);
  bytes += all_reduced(kLayers + 2, 8, world);
  auto model = perceptron(size.width);
  auto wrapped = std::make_shared<std::optional<wanpar::ShardedParams<torch::nn::Sequential>>>();
  return {bytes, [=](const Communicator& counted) {
            if (!*wrapped)
              wrapped->emplace(model, wanpar::ShardedParamsOptions{.group = counted, .sharding = sharding});
            (**wrapped)(random({2, size.width}, at::kFloat)).sum().backward();
          }};
}

/// The result is gathered; each parameter's gradient is reduced with two marks beside it.
Case data(const Size& size, const Communicator& world) {
  const int n = world.size();
  const int64_t batch = size.tokens, own = even_sizes(batch, n)[world.rank()];
  auto parameters = kLayers * (size.width * size.width + size.width), marks = 2 * 2 * kLayers;
  auto bytes = static_cast<double>(kElement * own * size.width * (n - 1)) +
               all_reduced(parameters + marks, kElement, world);
  auto model = perceptron(size.width);
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {bytes, [=](const Communicator& counted) {
            if (!*wrapped) wrapped->emplace(model | wanpar::data_parallel({.group = counted}));
            (**wrapped)(random({batch, size.width}, at::kFloat)).sum().backward();
          }};
}

/// Each stage but the last sends activations on, each but the first gradients back; the last gives its result
/// to all.
Case pipeline(const Size& size, const Communicator& world) {
  const int n = world.size(), rank = world.rank();
  auto activations = static_cast<double>(kElement * size.tokens * size.width);
  auto bytes = (rank < n - 1 ? activations : activations * (n - 1)) + (rank > 0 ? activations : 0);
  auto model = std::make_shared<torch::nn::Sequential>();
  for (int i = 0; i < n; ++i) (*model)->push_back(torch::nn::Linear(size.width, size.width));
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {bytes, [=](const Communicator& counted) {
            if (!*wrapped)
              wrapped->emplace(*model | wanpar::block_pipeline({.stages = counted, .micro_batches = 4}));
            (**wrapped)(random({size.tokens, size.width}, at::kFloat)).sum().backward();
          }};
}

/// The ratio farthest from one that a rank found in its second step; the first one learns.
double ratio(int ranks, const Size& size, const MakeCase& make) {
  double farthest = 1;
  std::mutex mutex;
  wanpar::local::run(ranks, [&](Communicator world) {
    wanpar::Recording recording;
    auto one = make(size, world);
    auto counted = recording(world);
    one.step(counted);
    recording.clear();
    one.step(counted);
    auto found = static_cast<double>(recording.total().bytes) / one.bytes;
    std::lock_guard lock(mutex);
    if (!(std::abs(found - 1) <= std::abs(farthest - 1))) farthest = found;
  });
  return farthest;
}

}  // namespace

void print_payload() {
  using wanpar::Sharding;
  const std::vector<std::pair<std::string, MakeCase>> cases{
      {"Ulysses", [](auto& size, auto& world) { return sequence(size, world, world.size()); }},
      {"ring", [](auto& size, auto& world) { return sequence(size, world, 1); }},
      {"ring x Ulysses 2", [](auto& size, auto& world) { return sequence(size, world, 2); }},
      {"FULL_SHARD, prefetch 1",
       [](auto& size, auto& world) { return sharded(size, world, Sharding::full_shard); }},
      {"SHARD_GRAD_OP",
       [](auto& size, auto& world) { return sharded(size, world, Sharding::shard_grad_op); }},
      {"NO_SHARD", [](auto& size, auto& world) { return sharded(size, world, Sharding::no_shard); }},
      {"DataParallel", data},
      {"BlockPipeline, 4 micro-batches", pipeline},
  };
  fmt::print(
      "\n## Payload leaving a rank in forward and backward, counted over what the formula says\n\nOf the "
      "ranks' ratios, the one farthest from 1; the limit is 1. Counted are the messages that the ranks "
      "send.\n\n| strategy | sizes | 2 ranks | 3 | 4 | 8 | 16 "
      "|\n|---|---|---|---|---|---|---|\n");
  for (auto& [name, make] : cases)
    for (auto& size : {kEven, kUneven}) {
      fmt::print("| {} | {} |", name, size.name);
      for (int ranks : {2, 3, 4, 8, 16}) {
        bool fits = name != "ring x Ulysses 2" || ranks % 2 == 0;
        if (!fits) {
          fmt::print("  |");
          continue;
        }
        auto found = ratio(ranks, size, make);
        fmt::print(" {:.3f} |", found);
        check(fmt::format("payload of {}, {}, {} ranks: distance from 1", name, size.name, ranks),
              std::abs(found - 1), 1e-12);
      }
      fmt::print("\n");
    }
}
