#include "wan/scheduler/unipc.hpp"

#include <ATen/ops/add.h>

#include <cmath>
#include <utility>

namespace wan {

at::Tensor UniPC::advance(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) {
  const auto arrived = data_estimate(i, velocity, sample);
  start_ = i == 0 ? sample : corrected(i - 1, start_, arrived);
  previous_ = std::exchange(data_, arrived);
  return predicted(i, start_);
}

at::Tensor UniPC::predicted(int64_t i, const at::Tensor& sample) const {
  if (order(i) == 1) return lead(i, sample, data_);
  const double ratio = -step_length(i - 1) / step_length(i);
  return lead(i, sample, at::add(data_, previous_ - data_, 0.5 / ratio));
}

at::Tensor UniPC::corrected(int64_t i, const at::Tensor& sample, const at::Tensor& arrived) const {
  const auto change = arrived - data_;
  if (order(i) == 1) return lead(i, sample, at::add(data_, change, 0.5));

  // The weights rho solve the two order conditions: rho1 + rho2 = b1 and ratio * rho1 + rho2 = b2.
  const double h = step_length(i), ratio = -step_length(i - 1) / h, b = std::expm1(-h);
  const double phi2 = b / -h - 1, phi3 = phi2 / -h - 0.5;
  const double b1 = phi2 / b, b2 = 2 * phi3 / b;
  const double rho1 = (b1 - b2) / (1 - ratio), rho2 = b1 - rho1;
  return lead(i, sample, at::add(data_, previous_ - data_, rho1 / ratio).add_(change, rho2));
}

at::Tensor UniPC::lead(int64_t i, const at::Tensor& sample, const at::Tensor& target) const {
  const double toward_data = -(1 - sigma(i + 1)) * std::expm1(-step_length(i));
  return at::add(sample * (sigma(i + 1) / sigma(i)), target, toward_data);
}

}  // namespace wan
