#include <wanpar/extend/module/linear_map.hpp>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {
namespace {

using torch::autograd::variable_list;

struct Adjoint : torch::autograd::Node {
  explicit Adjoint(TensorMap m) : map(std::move(m)) {}

  variable_list apply(variable_list&& gradients) override {
    refuse_create_graph();
    NoInterceptGuard no_intercept;
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < gradients.size(); ++i)
      if (!gradients[i].defined()) gradients[i] = at::zeros(shapes[i], options[i]);
    return map(std::move(gradients));
  }
  std::string name() const override { return "wanpar::Adjoint"; }

  TensorMap map;
  std::vector<std::vector<int64_t>> shapes;  // of the results
  std::vector<at::TensorOptions> options;
};

variable_list without_gradient(const variable_list& x, const TensorMap& map) {
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  auto results = map(x);
  // Neither an input nor a view of one: in-place operators on them would rebase its history.
  for (auto& result : results) result = result.detach();
  return results;
}

}  // namespace

void refuse_create_graph() {
  if (at::GradMode::is_enabled())
    throw UsageError(
        "gradients of gradients do not pass an exchange between ranks; differentiate once, and call backward "
        "without create_graph");
}

bool wants_gradient(const std::vector<at::Tensor>& tensors) {
  return at::GradMode::is_enabled() && std::any_of(tensors.begin(), tensors.end(),
                                                   [](auto& x) { return x.defined() && x.requires_grad(); });
}

std::vector<at::Tensor> linear_map(std::vector<at::Tensor> x, const TensorMap& forward, TensorMap adjoint) {
  if (!wants_gradient(x)) return forward(std::move(x));
  auto node = std::shared_ptr<Adjoint>(new Adjoint(std::move(adjoint)), torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(x));
  auto results = without_gradient(x, forward);
  for (auto& result : results) {
    node->shapes.push_back(result.sizes().vec());
    node->options.push_back(result.options());
  }
  torch::autograd::set_history(results, node);
  return results;
}

at::Tensor linear_map(at::Tensor x, const std::function<at::Tensor(at::Tensor)>& forward,
                      const std::function<at::Tensor(at::Tensor)>& adjoint) {
  auto listed = [](std::function<at::Tensor(at::Tensor)> map) {
    return [map = std::move(map)](std::vector<at::Tensor> xs) { return std::vector{map(std::move(xs[0]))}; };
  };
  return linear_map(std::vector{std::move(x)}, listed(forward), listed(adjoint))[0];
}

}  // namespace wanpar
