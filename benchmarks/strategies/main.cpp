// What the strategies promise, measured in one run:
//
//   strategies > benchmarks/results/strategies.md
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <cstdio>
#include <mutex>

#include "tables.hpp"

AttentionModel make_model(at::ScalarType dtype, int64_t layers) {
  static std::mutex generator;  // LibTorch's random numbers come from one for all threads
  std::lock_guard lock(generator);
  torch::manual_seed(1);
  AttentionModel model(AttentionModelOptions{.layers = layers});
  model->to(dtype);
  return model;
}

at::Tensor random(std::vector<int64_t> shape, at::ScalarType dtype, int seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), dtype);
}

double greatest(const std::vector<int>& worlds, const std::function<double(wanpar::Communicator)>& measure) {
  double result = 0;
  std::mutex mutex;
  for (int ranks : worlds)
    wanpar::local::run(ranks, [&](wanpar::Communicator world) {
      auto found = measure(world);
      std::lock_guard lock(mutex);
      result = std::max(result, found);
    });
  return result;
}

int main() try {
  fmt::print(
      "# What the strategies promise, measured\n\nThread ranks on one CPU. Command: `build/bin/strategies > "
      "benchmarks/results/strategies.md`\n");
  for (auto print : {print_exactness, print_payload, print_peak, print_bytes_read, print_memory, print_bubble,
                     print_training, print_cost_alone}) {
    print();
    std::fflush(stdout);
  }
} catch (const std::exception& failure) {
  fmt::print(stderr, "{}\n", failure.what());
  return 1;
}
