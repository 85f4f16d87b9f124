#include "wan/scheduler/dpmpp.hpp"

#include <ATen/ops/add.h>
#include <ATen/ops/lerp.h>

#include <cmath>

namespace wan {

at::Tensor DpmPlusPlus::advance(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) {
  const double here = log_snr(sigma(i)), h = log_snr(sigma(i + 1)) - here;
  const auto data = data_estimate(i, velocity, sample);
  auto target = data;
  if (i > 0 && i + 1 < steps()) {
    // Where the run starts at sigma 1, the step before was infinitely long and the slope vanishes.
    const double slope = h / (here - log_snr(sigma(i - 1)));
    target = at::lerp(previous_, data, 1 + slope / 2);
  }
  previous_ = data;
  return at::add(sample * (sigma(i + 1) / sigma(i)), target, -(1 - sigma(i + 1)) * std::expm1(-h));
}

}  // namespace wan
