#include <fmt/format.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
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

/// Bytes of an all-reduce: a rank's elements that others reduce, and what it reduced itself to all others.
double all_reduced(int64_t elements, int64_t width, int ranks, int rank) {
  auto own = even_sizes(elements, ranks)[rank];
  return static_cast<double>(width * (elements - own + (ranks - 1) * own));
}

/// Forward and backward of one attention, its tokens over ring x ulysses ranks; queries, keys and values are
/// the same tensor. Forward sends for Ulysses three tensors there and one back, for the ring keys and values
/// of all but the next rank; backward the same again and the ring's gradients all the way round. Cutting and
/// gathering send the rank's tokens to all others.
double attention_bytes(const Size& size, const Communicator& world, int ulysses) {
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
  return attention + 2 * joined;
}

Case sequence(const Size& size, const Communicator& world, int ulysses) {
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {attention_bytes(size, world, ulysses), [=](const Communicator& counted) {
            wanpar::Mesh mesh(counted, {{"ring", counted.size() / ulysses}, {"ulysses", ulysses}});
            auto attend = [](at::Tensor x) { return at::scaled_dot_product_attention(x, x, x); };
            if (!*wrapped)
              wrapped->emplace(attend | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                                                   .ring = mesh["ring"],
                                                                   .split = {{.arg = 0, .dim = 2}},
                                                                   .min_share = 1}));
            auto x = random({1, size.heads, size.tokens, kChannels}, at::kFloat).requires_grad_();
            (**wrapped)(x).sum().backward();
          }};
}

constexpr int64_t kLayers = 5;

torch::nn::Sequential perceptron(int64_t width, int64_t layers = kLayers) {
  torch::nn::Sequential model;
  for (int64_t i = 0; i < layers; ++i) model->push_back(torch::nn::Linear(width, width));
  return model;
}

int64_t padded(int64_t elements) { return (elements + 15) / 16 * 16; }  // to 64 bytes

/// A unit is gathered whenever it comes, and its gradients are scattered once, the parts then averaged over
/// replicas; a backward ends with eight bytes for each flat parameter and sixteen besides.
double sharded_bytes(int64_t width, const Communicator& world, wanpar::Sharding sharding, int replicas = 1) {
  const int n = world.size() / replicas, rank = world.rank() % n, replica = world.rank() / n;
  auto unit = padded(width * width) + padded(width);
  auto own = even_sizes(unit, n)[rank];
  auto gathers = sharding == wanpar::Sharding::full_shard ? 2 * kLayers - 2 : kLayers;
  auto bytes = static_cast<double>(kElement * (own * (n - 1) * gathers + (unit - own) * kLayers));
  if (sharding == wanpar::Sharding::no_shard) bytes = kLayers * all_reduced(unit, kElement, n, rank);
  bytes += kLayers * all_reduced(own, kElement, replicas, replica);
  return bytes + all_reduced(kLayers + 2, 8, n, rank) + all_reduced(kLayers + 2, 8, replicas, replica);
}

Case sharded(const Size& size, const Communicator& world, wanpar::Sharding sharding, int replicas = 1) {
  auto model = perceptron(size.width);
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {sharded_bytes(size.width, world, sharding, replicas), [=](const Communicator& counted) {
            wanpar::Mesh mesh(counted, {{"replicate", replicas}, {"shard", counted.size() / replicas}});
            if (!*wrapped)
              wrapped->emplace(model | wanpar::sharded_params({.group = mesh["shard"],
                                                               .replicate = mesh["replicate"],
                                                               .sharding = sharding}));
            (**wrapped)(random({2, size.width}, at::kFloat)).sum().backward();
          }};
}

/// Blocks that run once more are gathered where their backward would gather them: nothing is sent for it.
Case checkpointed(const Size& size, const Communicator& world) {
  auto model = perceptron(size.width);
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {sharded_bytes(size.width, world, wanpar::Sharding::full_shard), [=](const Communicator& counted) {
            if (!*wrapped)
              wrapped->emplace(model | wanpar::activation_checkpointing() |
                               wanpar::sharded_params({.group = counted}));
            (**wrapped)(random({2, size.width}, at::kFloat).requires_grad_()).sum().backward();
          }};
}

/// What ranks were given is compared: its names, and two numbers for each tensor.
double compared_bytes(int64_t tensors, int ranks) {
  return static_cast<double>((24 + 16 * tensors) * (ranks - 1));
}

/// What was given and what the result is are compared, and it is gathered; each parameter's gradient is
/// reduced with two marks beside it.
double data_bytes(int64_t width, int64_t own, int64_t layers, int ranks, int rank) {
  auto parameters = layers * (width * width + width), marks = 2 * 2 * layers;
  return compared_bytes(1, ranks) + compared_bytes(0, ranks) +
         static_cast<double>(kElement * own * width * (ranks - 1)) +
         all_reduced(parameters + marks, kElement, ranks, rank);
}

Case data(const Size& size, const Communicator& world) {
  const int n = world.size(), rank = world.rank();
  const int64_t batch = size.tokens, own = even_sizes(batch, n)[rank];
  auto model = perceptron(size.width);
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {data_bytes(size.width, own, kLayers, n, rank), [=](const Communicator& counted) {
            if (!*wrapped) wrapped->emplace(model | wanpar::data_parallel({.group = counted}));
            (**wrapped)(random({batch, size.width}, at::kFloat)).sum().backward();
          }};
}

/// Each stage but the last sends activations on, each but the first gradients back; the last gives its result
/// to all. What was given, what goes into the blocks and the result are compared.
double pipeline_bytes(int64_t width, int64_t samples, int stages, int rank) {
  auto activations = static_cast<double>(kElement * samples * width);
  return 3 * compared_bytes(1, stages) + (rank < stages - 1 ? activations : activations * (stages - 1)) +
         (rank > 0 ? activations : 0);
}

Case pipeline(const Size& size, const Communicator& world) {
  auto model = perceptron(size.width, world.size());
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {pipeline_bytes(size.width, size.tokens, world.size(), world.rank()),
          [=](const Communicator& counted) {
            if (!*wrapped)
              wrapped->emplace(model | wanpar::block_pipeline({.stages = counted, .micro_batches = 4}));
            (**wrapped)(random({size.tokens, size.width}, at::kFloat)).sum().backward();
          }};
}

/// A training step does without the result: of it all ranks learn the loss, and one number besides.
Case train_step(const Size& size, const Communicator& world) {
  const int n = world.size(), rank = world.rank();
  auto activations = static_cast<double>(kElement * size.tokens * size.width);
  auto bytes = compared_bytes(2, n) + (rank < n - 1 ? activations : 0) + (rank > 0 ? activations : 0) +
               all_reduced(2, 8, n, rank);
  auto model = perceptron(size.width, n);
  auto wrapped = std::make_shared<std::optional<wanpar::BlockPipeline<torch::nn::Sequential>>>();
  return {bytes, [=](const Communicator& counted) {
            if (!*wrapped)
              wrapped->emplace(model, wanpar::BlockPipelineOptions{.stages = counted, .micro_batches = 4});
            auto x = random({size.tokens, size.width}, at::kFloat);
            (*wrapped)->train_step({x}, x, [](at::Tensor y, at::Tensor t) { return at::mse_loss(y, t); });
          }};
}

/// Layers, then attention, both split by Ulysses, the layers' weights sharded over the same ranks: what each
/// sends, and the sum of the weights' gradients over the ranks that had a part of the tokens.
Case sharded_sequence(const Size& size, const Communicator& world) {
  const int n = world.size(), rank = world.rank();
  const int64_t width = size.heads * kChannels;
  auto sums = all_reduced(width * width, kElement, n, rank) + all_reduced(width, kElement, n, rank);
  auto bytes = attention_bytes(size, world, n) + kLayers * sums +
               sharded_bytes(width, world, wanpar::Sharding::full_shard);
  auto layers = perceptron(width);
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {bytes, [=](const Communicator& counted) {
            if (!*wrapped) {
              auto sharded = layers | wanpar::sharded_params({.group = counted});
              auto attend = [sharded](at::Tensor x) mutable {
                auto heads = sharded(x).unflatten(-1, {-1, kChannels}).transpose(1, 2);
                return at::scaled_dot_product_attention(heads, heads, heads);
              };
              wrapped->emplace(attend |
                               wanpar::sequence_parallel(
                                   {.ulysses = counted, .split = {{.arg = 0, .dim = 1}}, .min_share = 1}));
            }
            (**wrapped)(random({1, size.tokens, width}, at::kFloat).requires_grad_()).sum().backward();
          }};
}

/// Two pipelines, each with a part of the batch.
Case data_pipeline(const Size& size, const Communicator& world) {
  const int stages = world.size() / 2, stage = world.rank() % stages, replica = world.rank() / stages;
  auto own = even_sizes(size.tokens, 2)[replica];
  auto bytes =
      pipeline_bytes(size.width, own, stages, stage) + data_bytes(size.width, own, stages, 2, replica);
  auto model = perceptron(size.width, stages);
  auto wrapped = std::make_shared<std::optional<Model>>();
  return {
      bytes, [=](const Communicator& counted) {
        wanpar::Mesh mesh(counted, {{"data", 2}, {"stages", stages}});
        if (!*wrapped)
          wrapped->emplace(model | wanpar::block_pipeline({.stages = mesh["stages"], .micro_batches = 4}) |
                           wanpar::data_parallel({.group = mesh["data"], .find_unused_parameters = true}));
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
  struct Row {
    std::string name;
    MakeCase make;
    int multiple = 1;  ///< it wants a number of ranks that this divides
  };
  const std::vector<Row> rows{
      {"Ulysses", [](auto& size, auto& world) { return sequence(size, world, world.size()); }},
      {"ring", [](auto& size, auto& world) { return sequence(size, world, 1); }},
      {"ring x Ulysses 2", [](auto& size, auto& world) { return sequence(size, world, 2); }, 2},
      {"FULL_SHARD, prefetch 1",
       [](auto& size, auto& world) { return sharded(size, world, Sharding::full_shard); }},
      {"SHARD_GRAD_OP",
       [](auto& size, auto& world) { return sharded(size, world, Sharding::shard_grad_op); }},
      {"NO_SHARD", [](auto& size, auto& world) { return sharded(size, world, Sharding::no_shard); }},
      {"hybrid: FULL_SHARD, 2 replicas",
       [](auto& size, auto& world) { return sharded(size, world, Sharding::full_shard, 2); }, 2},
      {"DataParallel", data},
      {"BlockPipeline, 4 micro-batches", pipeline},
      {"BlockPipeline, train_step", train_step},
      {"ActivationCheckpointing, FULL_SHARD", checkpointed},
      {"FULL_SHARD, Ulysses", sharded_sequence},
      {"BlockPipeline, DataParallel 2", data_pipeline, 2},
  };
  fmt::print(
      "\n## Payload leaving a rank in forward and backward, counted over what the formula says\n\nOf the "
      "ranks' ratios, the one farthest from 1; the limit is 1. Counted are the messages that the ranks "
      "send.\n\n| strategy | sizes | 2 ranks | 3 | 4 | 8 | 16 "
      "|\n|---|---|---|---|---|---|---|\n");
  for (auto& [name, make, multiple] : rows)
    for (auto& size : {kEven, kUneven}) {
      fmt::print("| {} | {} |", name, size.name);
      for (int ranks : {2, 3, 4, 8, 16}) {
        if (ranks % multiple) {
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
