// Trains the VAE and the transformer of the Wan architecture on the library's own strategies: started alone,
// by torchrun, by mpirun, or with thread ranks inside.
#include <ATen/Context.h>
#include <fmt/format.h>

#include <atomic>
#include <csignal>
#include <iostream>

#include "train/options.hpp"
#include "train/run.hpp"
#include "wan/cli/before_main.hpp"
#include "wan/launch/program.hpp"
#include "wan/launch/traced.hpp"

namespace {

[[gnu::used, gnu::section(".preinit_array")]] void (*const kBeforeMain)(int, char**,
                                                                        char**) = wan::before_main;

std::atomic<bool> stop = false;

/// Runs this process's ranks. `failure` is why it has no options.
void run(const wan::train::Options& options, const wanpar::Place& place, std::string failure) {
  const bool on_cuda = options.device == "cuda" && at::hasCUDA();
  if (failure.empty())
    failure = wan::failure_of([&] {
      check_ranks(options, wan::ranks_of(place, options.local_ranks));
      if (options.device == "cuda" && !on_cuda)
        throw wanpar::Error("--device cuda: no CUDA device is available here; use --device cpu");
    });
  const auto device = wan::device_at(place, on_cuda ? at::kCUDA : at::kCPU);
  if (on_cuda) {
    at::globalContext().setFloat32MatmulPrecision("high");  // TF32: training does not need more
    at::globalContext().setBenchmarkCuDNN(true);
  }
  wan::on_ranks(place,
                {.local_ranks = options.local_ranks,
                 .timeout = options.timeout,
                 .on_cuda = on_cuda,
                 .failure = failure,
                 .told = described(options, WANPAR_VERSION)},
                [&](const wanpar::Communicator& world) {
                  std::signal(SIGINT, [](int) { stop = true; });
                  std::signal(SIGTERM, [](int) { stop = true; });
                  wan::traced(world, options.trace, [&](const wanpar::Communicator& ranks) {
                    wan::train::run(ranks, options, device, stop, std::cerr);
                  });
                });
}

}  // namespace

int main(int argc, char** argv) {
  return wan::status_of("wan_train", [&](const wanpar::Place& place) {
    wan::train::Options options;
    const auto failure = wan::failure_of([&] {
      options = wan::train::parse_options({argv + 1, argv + argc});
    });
    if (options.answer)
      fmt::print("{}", *options.answer);
    else
      run(options, place, failure);
  });
}
