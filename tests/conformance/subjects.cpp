#include <torch/script.h>

#include "suite.hpp"

using wanpar::Model;

namespace {

torch::jit::Module script(at::ScalarType dtype) {
  auto module = torch::jit::load(TEST_DATA "/attention.pt");
  module.to(dtype);
  return module;
}

}  // namespace

const std::vector<Subject>& subjects() {
  static const auto all = [] {
    auto some = wanpar::conformance::subjects();
    some.push_back({.name = "TorchScript",
                    .make = [](auto dtype) { return Model(script(dtype)); },
                    .inputs =
                        [](int64_t batch, int64_t length) {
                          return std::vector{at::randn(
                              {batch, length, 48}, at::make_generator<at::CPUGeneratorImpl>(7), at::kDouble)};
                        },
                    .stacked = [](auto dtype) { return wanpar::conformance::by_blocks(script(dtype)); },
                    .blocks = 2});
    return some;
  }();
  return all;
}
