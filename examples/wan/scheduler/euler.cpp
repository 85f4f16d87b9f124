#include "wan/scheduler/euler.hpp"

#include <ATen/ops/add.h>

namespace wan {

at::Tensor Euler::advance(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) {
  return at::add(sample, velocity, sigma(i + 1) - sigma(i));
}

}  // namespace wan
