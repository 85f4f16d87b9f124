#include "module/gradient_norm.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <wanpar/module/clip_grad_norm.hpp>

namespace wanpar {

double square_norm(const at::Tensor& gradient) {
  if (!gradient.defined()) return 0;
  return std::pow(at::linalg_vector_norm(gradient.detach(), 2, {}, false, at::kDouble).item<double>(), 2);
}

double global_norm(const std::vector<double>& squares, const Communicator& shards,
                   const Communicator& stages) {
  auto sum =
      shards.all_reduce(at::tensor(squares, at::kDouble).to(shards.device())).get().to(stages.device());
  if (stages.size() == 1) return std::sqrt(sum.sum().item<double>());
  auto holders = stages.all_reduce(sum.ne(0).to(at::kDouble)).get();
  auto all = stages.all_reduce(std::move(sum)).get();
  return std::sqrt((all / holders.clamp_min(1)).sum().item<double>());
}

void scale_to_norm(const std::vector<at::Tensor>& parameters, double norm, double max) {
  at::NoGradGuard no_grad;
  auto scale = max / (norm + 1e-6);  // as torch::nn::utils::clip_grad_norm_ has it
  for (auto& parameter : parameters)
    if (scale < 1 && parameter.grad().defined()) parameter.grad().mul_(scale);
}

double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max, const Communicator& stages) {
  std::vector<double> squares;
  for (auto& parameter : parameters) squares.push_back(square_norm(parameter.grad()));
  auto norm = global_norm(squares, {}, stages);
  scale_to_norm(parameters, norm, max);
  return norm;
}

}  // namespace wanpar
