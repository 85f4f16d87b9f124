// What the strategies promise, measured in one run:
//
//   strategies > benchmarks/results/strategies.md
//
// It fails when a figure is beyond what is promised, after all tables, and names those rows.
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/transport/local.hpp>

#include <cstdio>
#include <mutex>

#include "limits.hpp"
#include "tables.hpp"

AttentionModel make_model(at::ScalarType dtype, int64_t layers, int64_t dim) {
  static std::mutex generator;  // LibTorch's random numbers come from one for all threads
  std::lock_guard lock(generator);
  torch::manual_seed(1);
  AttentionModel model(AttentionModelOptions{.dim = dim, .layers = layers});
  model->to(dtype);
  return model;
}

at::Tensor random(std::vector<int64_t> shape, at::ScalarType dtype, int seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), dtype);
}

double worst(const std::vector<int>& worlds, const std::function<double(wanpar::Communicator)>& measure) {
  double result = 0;
  std::mutex mutex;
  for (int ranks : worlds)
    wanpar::local::run(ranks, [&](wanpar::Communicator world) {
      auto found = measure(world);
      std::lock_guard lock(mutex);
      result = worse(result, found);
    });
  return result;
}

int main() try {
  fmt::print(
      "# What the strategies promise, measured\n\nThread ranks on one CPU. Command: `build/bin/strategies > "
      "benchmarks/results/strategies.md`\n");
  for (auto print : {print_exactness, print_payload, print_peak, print_bytes_read, print_memory, print_bubble,
                     print_training, print_cost_alone, print_cost_on_two_ranks}) {
    print();
    std::fflush(stdout);
  }
  return are_kept() ? 0 : 1;
} catch (const std::exception& failure) {
  fmt::print(stderr, "{}\n", failure.what());
  return 1;
}
