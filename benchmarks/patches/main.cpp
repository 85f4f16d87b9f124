// What displaced patches and the VAE over the ranks take, measured in one run on thread ranks:
//
//   patches > benchmarks/results/patches.md
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>

#include "tables.hpp"

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kFloat);
}

double seconds(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

int main() try {
  fmt::print(
      "# Displaced patches, and the VAE over the ranks, measured\n\nThread ranks on one CPU. Command: "
      "`OMP_NUM_THREADS=2 build/bin/patches > benchmarks/results/patches.md`\n");
  for (auto print : {print_decoding, print_steps, print_overlap}) {
    print();
    std::fflush(stdout);
  }
} catch (const std::exception& failure) {
  fmt::print(stderr, "{}\n", failure.what());
  return 1;
}
