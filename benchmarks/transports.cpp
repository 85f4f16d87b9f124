// Latency and bandwidth of two ranks on this machine: thread ranks, and Gloo over the loopback, each with and
// without checks. Bytes are what one rank gives.
//
//   benchmark_transports --benchmark_filter=all_to_all
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/local.hpp>

#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

using Operation = std::function<void(const wanpar::Communicator&, const at::Tensor&)>;
using World = std::function<void(const std::function<void(wanpar::Communicator)>&)>;

World threads(wanpar::Checks checks) {
  return [=](const auto& program) { wanpar::local::run(2, program, {.checks = checks}); };
}

/// Two ranks of Gloo in one process, each on its own thread.
World gloo(wanpar::Checks checks) {
  return [=](const auto& program) {
    static int port = 29600;
    ++port;
    std::vector<std::jthread> ranks;
    for (int rank : {0, 1})
      ranks.emplace_back([=, &program] {
        wanpar::Place place{
            .rank = rank, .world_size = 2, .local_rank = rank, .local_size = 2, .master_port = port};
        program(wanpar::connect({.backend = wanpar::Backend::gloo, .checks = checks, .place = place}));
      });
  };
}

void measure(benchmark::State& state, const World& world, const Operation& operation) {
  world([&](wanpar::Communicator group) {
    auto x = at::zeros({state.range(0) / 4});
    operation(group, x);  // connections are made by the first call
    if (group.rank() == 0) {
      for (auto _ : state) operation(group, x);
    } else {
      for (benchmark::IterationCount i = 0; i < state.max_iterations; ++i) operation(group, x);
    }
  });
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

}  // namespace

int main(int argc, char** argv) {
  const std::pair<std::string, World> worlds[] = {
      {"local, checked", threads(wanpar::Checks::on)},
      {"local", threads(wanpar::Checks::off)},
      {"gloo, checked", gloo(wanpar::Checks::on)},
      {"gloo", gloo(wanpar::Checks::off)},
  };
  const std::pair<std::string, Operation> operations[] = {
      {"all_reduce", [](const auto& group, const auto& x) { group.all_reduce(x).get(); }},
      {"all_gather", [](const auto& group, const auto& x) { group.all_gather(x).get(); }},
      {"all_to_all",
       [](const auto& group, const auto& x) {
         group.all_to_all(x.view({2, -1}), 0, 1).get();
       }},
  };
  for (const auto& [operation_name, operation] : operations)
    for (const auto& [world_name, world] : worlds)
      benchmark::RegisterBenchmark((operation_name + ", " + world_name).c_str(), measure, world, operation)
          ->Arg(1 << 10)
          ->Arg(1 << 20)
          ->Arg(1 << 25)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
