#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/optim.h>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <ctime>
#include <limits>

#include "tables.hpp"

using wanpar::Communicator;

namespace {

constexpr int kRanks = 2, kTimes = 5;

/// CPU time of all threads; other work on the machine is no part of it.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// What one call takes all ranks together, after two that learn.
double cost(const Communicator& world, int calls, const std::function<void()>& call) {
  for (int i = 0; i < 2; ++i) call();
  world.barrier();
  const auto begin = cpu_seconds();
  for (int i = 0; i < calls; ++i) call();
  world.barrier();
  return (cpu_seconds() - begin) / calls;
}

int calls_at(int64_t width) { return width >= 1024 ? 3 : width >= 256 ? 12 : 40; }

/// The least of some runs, of one model on so many ranks.
template <class MakeCall>
double least_cost(int ranks, int64_t width, const MakeCall& make_call) {
  double least = std::numeric_limits<double>::infinity();
  for (int time = 0; time < kTimes; ++time)
    wanpar::local::run(ranks, [&](Communicator world) {
      at::set_num_threads(1);
      const auto call = make_call(world, width);
      const auto found = cost(world, calls_at(width), call);
      if (world.rank() == 0) least = std::min(least, found);
    });
  return least;
}

std::function<void()> forward(const Communicator& world, int64_t width) {
  auto model = make_model(at::kFloat, 8, width);
  auto split =
      model | wanpar::sequence_parallel({.ulysses = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
  auto x = random({1, 64, width}, at::kFloat);
  return [=]() mutable {
    const at::NoGradGuard no_grad;
    split(x);
  };
}

template <class Closure>
std::function<void()> training_step(int64_t width, const Closure& closure) {
  auto wrapped = make_model(at::kFloat, 8, width) | closure;
  auto optimizer = std::make_shared<torch::optim::AdamW>(wrapped.parameters());
  auto x = random({4, 64, width}, at::kFloat);
  return [=]() mutable {
    optimizer->zero_grad();
    wrapped(x).square().mean().backward();
    optimizer->step();
  };
}

}  // namespace

void print_cost_on_two_ranks() {
  fmt::print(
      "\n## On two ranks, CPU time of both\n\nEight layers, one thread a rank, the least of {} runs. A "
      "forward "
      "of 64 tokens, split over the ranks and looked at, over one rank's:\nwhat is more is the cost of "
      "operators "
      "that run on each rank, of exchanges and of looks, whatever the width; it tells where there is "
      "little\nto "
      "compute. A step of AdamW with FULL_SHARD, over one of DataParallel; and with units joined to 256 KiB "
      "(`.min_unit_bytes`).\n\n| width | forward, split | step, FULL_SHARD | units joined "
      "|\n|---|---|---|---|\n",
      kTimes);
  for (int64_t width : {48, 96, 192, 384, 768, 1152}) {
    const auto bare = least_cost(1, width, forward), split = least_cost(kRanks, width, forward);
    const auto data = least_cost(kRanks, width, [](auto& world, int64_t of) {
      return training_step(of, wanpar::data_parallel({.group = world, .mode = wanpar::BatchMode::local}));
    });
    const auto sharded = [&](int64_t min_unit_bytes) {
      return least_cost(kRanks, width, [&](auto& world, int64_t of) {
        return training_step(of, wanpar::sharded_params({.group = world, .min_unit_bytes = min_unit_bytes}));
      });
    };
    fmt::print("| {} | {:.2f} | {:.2f} | {:.2f} |\n", width, split / bare, sharded(0) / data,
               sharded(256 << 10) / data);
  }
}
