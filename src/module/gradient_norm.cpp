#include "module/gradient_norm.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <wanpar/module/clip_grad_norm.hpp>

namespace wanpar {

namespace {

/// Computed on the gradients' device, without synchronisation.
at::Tensor square_norms(const std::vector<at::Tensor>& gradients) {
  auto known = std::find_if(gradients.begin(), gradients.end(), [](auto& g) { return g.defined(); });
  auto options = at::TensorOptions(at::kDouble).device(known == gradients.end() ? at::kCPU : known->device());
  auto squares = at::zeros({static_cast<int64_t>(gradients.size())}, options);
  for (size_t i = 0; i < gradients.size(); ++i)
    if (gradients[i].defined())
      squares[i].copy_(at::linalg_vector_norm(gradients[i], 2, {}, false, at::kDouble));
  return squares.square_();
}

}  // namespace

double global_norm(const std::vector<at::Tensor>& gradients, const Communicator& shards,
                   const Communicator& stages) {
  at::NoGradGuard no_grad;
  auto squares = square_norms(gradients).to(shards.device());
  auto sum = shards.all_reduce(std::move(squares)).get().to(stages.device());
  if (stages.size() == 1) return std::sqrt(sum.sum().item<double>());
  auto holders = stages.all_reduce(sum.ne(0).to(at::kDouble)).get();
  auto all = stages.all_reduce(std::move(sum)).get();
  return std::sqrt((all / holders.clamp_min(1)).sum().item<double>());
}

void scale_to_norm(const std::vector<at::Tensor>& parameters, double norm, double max) {
  at::NoGradGuard no_grad;
  auto scale = max / (norm + 1e-6);  // as torch::nn::utils::clip_grad_norm_ does
  for (auto& parameter : parameters)
    if (!(scale >= 1) && parameter.grad().defined()) parameter.grad().mul_(scale);  // NaN, too
}

double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max, const Communicator& stages) {
  std::vector<at::Tensor> gradients;
  for (auto& parameter : parameters) gradients.push_back(parameter.grad());
  auto norm = global_norm(gradients, {}, stages);
  scale_to_norm(parameters, norm, max);
  return norm;
}

}  // namespace wanpar
