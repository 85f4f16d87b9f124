#include <fmt/format.h>
#include <wanpar/module/deferred.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <mutex>

#include "limits.hpp"
#include "live_bytes.hpp"
#include "tables.hpp"
#include "weight_file.hpp"

using wanpar::Communicator;

namespace {

/// Wide enough that deferred() leaves each matrix without memory, and that the smallest shard of a block is
/// larger than any activation of two tokens.
constexpr int64_t kWideLayers = 8, kWidth = 192;
constexpr size_t kLeast = 64 << 10;

AttentionModel make_wide() { return make_model(at::kFloat, kWideLayers, kWidth); }

/// Bytes of the matrices.
struct Weights {
  explicit Weights(const AttentionModel& model) {
    for (auto& item : model->named_parameters()) {
      auto bytes = static_cast<int64_t>(item.value().nbytes());
      total += bytes;
      if (item.key().starts_with("block0.")) unit += bytes;
      largest = std::max(largest, bytes);
    }
  }
  int64_t total = 0, unit = 0, largest = 0;
};

struct Peak {
  double load = 0, parameters = 0, frozen = 0, trained = 0;
};

/// From before the module is made to after a backward, on one rank.
Peak peak(const Communicator& world, int64_t prefetch, WeightFile& file) {
  Peak most;
  for (bool trains : {false, true}) {
    LiveBytes live(kLeast);
    auto model = wanpar::deferred(make_wide);
    for (auto& parameter : model->parameters()) parameter.set_requires_grad(trains);
    auto wrapped = model | wanpar::sharded_params({.group = world, .prefetch = prefetch});
    wrapped.load([&](auto& name, int64_t begin, int64_t end) { return file.read(name, begin, end); });
    most.load = static_cast<double>(live.most());
    for (int step = 0; step < 2; ++step) {  // the first one learns
      for (auto& shard : wrapped.parameters()) shard.mutable_grad().reset();
      wrapped(random({1, 2, kWidth}, at::kFloat).requires_grad_()).sum().backward();
    }
    auto memory = wrapped.memory();
    most.parameters = worse(most.parameters, static_cast<double>(memory.shards + memory.peak));
    (trains ? most.trained : most.frozen) = static_cast<double>(live.most());
  }
  return most;
}

}  // namespace

void print_peak() {
  WeightFile file(*make_wide());
  const Weights weights(make_wide());
  fmt::print(
      "\n## FULL_SHARD: the most weight bytes that a rank holds\n\n"
      "Eight blocks of {} bytes, made by `deferred()`, wrapped, loaded from a file, run forward and "
      "backward. "
      "\"Parameters\" are a rank's\nshards and the blocks that are here or on their way; the limit is total "
      "/ "
      "ranks + (prefetch + 1) x a block. Beside them all live\nallocations of {} KiB and more, counted from "
      "before the module is made; activations are smaller. The limit of a load is total /\nranks + the "
      "largest "
      "weight. Where the weights are frozen, no gradients are among them; threads copy a piece that is sent "
      "for "
      "its\nreceivers, so the limit there has prefetch + 2 pieces of a block / ranks more than that of "
      "parameters.\n\n"
      "| ranks | prefetch | parameters | limit | allocated: load | limit | step, frozen | limit | with "
      "gradients |\n"
      "|---|---|---|---|---|---|---|---|---|\n",
      weights.unit, kLeast >> 10);
  for (int ranks : {2, 4, 8})
    for (int64_t prefetch : {0, 1, 2}) {
      Peak most;
      std::mutex mutex;
      wanpar::local::run(ranks, [&](Communicator world) {
        auto found = peak(world, prefetch, file);
        std::lock_guard lock(mutex);
        most = {worse(most.load, found.load), worse(most.parameters, found.parameters),
                worse(most.frozen, found.frozen), worse(most.trained, found.trained)};
      });
      auto part = weights.total / ranks;
      auto load = static_cast<double>(part + weights.largest);
      auto parameters = static_cast<double>(part + (prefetch + 1) * weights.unit);
      auto step = parameters + static_cast<double>((prefetch + 2) * weights.unit / ranks);
      fmt::print("| {} | {} | {:.0f} | {:.0f} | {:.0f} | {:.0f} | {:.0f} | {:.0f} | {:.0f} |\n", ranks,
                 prefetch, most.parameters, parameters, most.load, load, most.frozen, step, most.trained);
      check(fmt::format("parameters, {} ranks, prefetch {}", ranks, prefetch), most.parameters, parameters);
      check(fmt::format("peak of a load, {} ranks, prefetch {}", ranks, prefetch), most.load, load);
      check(fmt::format("peak of a step, {} ranks, prefetch {}", ranks, prefetch), most.frozen, step);
    }
}

void print_bytes_read() {
  WeightFile file(*make_wide());
  wanpar::local::run(4, [&](Communicator world) {
    auto wrapped = wanpar::deferred(make_wide) | wanpar::sharded_params({.group = world});
    wrapped.load([&](auto& name, int64_t begin, int64_t end) { return file.read(name, begin, end); });
  });
  auto times = static_cast<double>(file.bytes_read()) / static_cast<double>(file.size());
  fmt::print(
      "\n## Bytes that 4 ranks read while loading their shards\n\nWhat pread gave all of them together, {} "
      "bytes, over the size of the file, {}: {:.3f}; the limit is 1. The same of a checkpoint's\nfiles is a "
      "test (`tests/wan_ranks/`).\n",
      file.bytes_read(), file.size(), times);
  check("bytes read by 4 ranks over the file's", times, 1);
}
