#include <doctest/doctest.h>

#include "conformance/strategies.hpp"
#include "cuda.hpp"

namespace conformance_test {
namespace {

using Make = std::function<wanpar::Model(at::ScalarType)>;

Make moved(Make make) {
  return [=](at::ScalarType dtype) {
    auto model = make(dtype);
    for (auto& list : {model.named_parameters(), model.named_buffers()})
      for (auto [name, tensor] : list) tensor.set_data(tensor.to(kCuda));
    return model;
  };
}

/// The modules of the suite, and what they are called with, on the device.
std::vector<Subject> moved_subjects() {
  auto all = subjects();
  for (auto& subject : all) {
    subject.make = moved(subject.make);
    if (subject.stacked) subject.stacked = moved(subject.stacked);
    subject.inputs = [inputs = subject.inputs](int64_t batch, int64_t length) {
      auto tensors = inputs(batch, length);
      for (auto& x : tensors) x = x.to(kCuda);
      return tensors;
    };
  }
  return all;
}

void conform_on_cuda(const Strategy& strategy) {
  if (no_cuda()) return;
  if (strategy.name.find("distribution") != std::string::npos) return;  // there the devices are named
  without_tf32();
  static const auto modules = moved_subjects();
  conform(strategy, modules, {2, 3});
}

}  // namespace

TEST_CASE("a module on CUDA wrapped in a strategy does what it does unwrapped" * doctest::skip(no_cuda())) {
  for (auto& strategy : strategies()) SUBCASE(strategy.name.c_str()) conform_on_cuda(strategy);
}

TEST_CASE("a module on CUDA wrapped in several strategies does what it does unwrapped" *
          doctest::skip(no_cuda())) {
  for (auto& composition : compositions()) SUBCASE(composition.name.c_str()) conform_on_cuda(composition);
}

}  // namespace conformance_test
