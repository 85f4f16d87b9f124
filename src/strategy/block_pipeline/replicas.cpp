#include "strategy/block_pipeline/replicas.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <span>
#include <unordered_set>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

double average_over(const Communicator& replicas, const NamedTensors& parameters, double loss) {
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> trained;
  std::unordered_set<const at::TensorImpl*> seen;
  for (auto& [name, parameter] : parameters)
    if (parameter.requires_grad() && seen.insert(parameter.unsafeGetTensorImpl()).second)
      trained.push_back(parameter);

  std::vector<double> numbers{loss};  // followed by flags for the gradients
  for (auto& parameter : trained) numbers.push_back(parameter.grad().defined() ? 1 : 0);
  auto mine = at::tensor(numbers, at::kDouble).to(replicas.device());
  auto means = replicas.all_reduce(std::move(mine), ReduceOp::mean).get().cpu();
  auto mean = std::span(means.const_data_ptr<double>(), numbers.size());

  std::vector<std::pair<at::Tensor, Pending<at::Tensor>>> under_way;
  for (size_t i = 0; i < trained.size(); ++i) {
    if (mean[i + 1] == 0) continue;
    auto gradient = trained[i].grad();  // kept unchanged if a transfer fails
    if (!gradient.defined()) gradient = at::zeros_like(trained[i]);
    under_way.emplace_back(trained[i], replicas.all_reduce(std::move(gradient), ReduceOp::mean));
  }
  for (auto& [parameter, gradient] : under_way) {
    auto mean = gradient.get();
    auto& own = parameter.mutable_grad();
    if (own.defined())
      own.copy_(mean);
    else
      own = mean.variable_data();  // a view could not be detached in place
  }
  return mean[0];
}

}  // namespace wanpar
