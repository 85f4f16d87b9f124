#include "wan/demo/random.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>

#include <cmath>

namespace wan::demo {
namespace {

/// FNV-1a, which unlike std::hash is the same everywhere.
uint64_t hash(const std::string& text) {
  uint64_t value = 14695981039346656037u;
  for (const unsigned char letter : text) value = (value ^ letter) * 1099511628211u;
  return value;
}

}  // namespace

at::Tensor normal(const std::string& name, at::IntArrayRef shape) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(hash(name)), at::kFloat);
}

at::Tensor normal_weight(const std::string& name, at::IntArrayRef shape, double gain) {
  const auto fan_in = static_cast<double>(c10::multiply_integers(shape.slice(1)));
  return normal(name, shape) * (gain / std::sqrt(fan_in));
}

}  // namespace wan::demo
