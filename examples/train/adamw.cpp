#include "train/adamw.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace wan::train {

AdamW::AdamW(std::vector<at::Tensor> to_train, AdamWOptions options)
    : parameters(std::move(to_train)), options_(options) {
  for (const auto& parameter : parameters) {
    first.push_back(at::zeros_like(parameter).detach());
    second.push_back(at::zeros_like(parameter).detach());
  }
}

void AdamW::step(int64_t step, double rate) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : parameters)
    gradients.push_back(parameter.grad().defined() ? parameter.grad() : at::zeros_like(parameter));
  const auto count =
      at::full({}, static_cast<double>(step), at::dtype(at::kFloat).device(parameters.front().device()));
  const std::vector<at::Tensor> steps(parameters.size(), count);
  at::_fused_adamw_(parameters, gradients, first, second, {}, steps, rate, options_.beta1, options_.beta2,
                    options_.weight_decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false);
  for (auto& parameter : parameters) parameter.mutable_grad() = at::Tensor();
}

double Schedule::operator()(int64_t step) const {
  if (step <= warm_up) return rate * static_cast<double>(step) / static_cast<double>(warm_up);
  const auto done =
      static_cast<double>(step - warm_up) / static_cast<double>(std::max<int64_t>(1, steps - warm_up));
  return rate * (last + (1 - last) * 0.5 * (1 + std::cos(std::numbers::pi * std::min(done, 1.0))));
}

}  // namespace wan::train
