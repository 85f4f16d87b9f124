#pragma once
#include <torch/nn.h>
#include <torch/types.h>

#include <string>

#include "models/classifier.hpp"

inline at::Tensor samples(std::vector<int64_t> shape, int seed = 0, at::ScalarType dtype = at::kDouble) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed + 7);
  return at::randn(shape, generator, dtype);
}

/// The same weights on every call, from any thread.
template <class Module>
Module with_weights(Module module, at::ScalarType dtype = at::kDouble) {
  module->to(dtype);
  at::NoGradGuard no_grad;
  int seed = 100;
  for (auto& parameter : module->parameters())
    parameter.copy_(samples(parameter.sizes().vec(), seed++, dtype) * 0.3);
  return module;
}
