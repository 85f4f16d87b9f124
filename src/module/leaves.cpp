#include "module/leaves.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>
#include <unordered_set>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {
namespace {

using torch::autograd::Node;

std::shared_ptr<Node> node_of(const at::Tensor& x) {
  return x.defined() && x.requires_grad() ? torch::autograd::impl::gradient_edge(x).function : nullptr;
}

/// Calls `visit` for each node of the graph of `results`, up to `arguments`.
void walk(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments,
          const std::function<void(Node*)>& visit) {
  std::vector<std::shared_ptr<Node>> held;  // a leaf's node lives only while it is referenced
  std::unordered_set<Node*> seen{nullptr};
  for (auto& argument : arguments) {
    held.push_back(node_of(argument));
    seen.insert(held.back().get());
  }
  std::vector<Node*> open;
  auto see = [&](Node* node) {
    if (seen.insert(node).second) open.push_back(node);
  };
  for (auto& result : results) {
    held.push_back(node_of(result));
    see(held.back().get());
  }
  while (!open.empty()) {
    auto* node = open.back();
    open.pop_back();
    visit(node);
    for (auto& edge : node->next_edges()) see(edge.function.get());
  }
}

}  // namespace

std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& results,
                                  const std::vector<at::Tensor>& arguments) {
  std::vector<at::Tensor> leaves;
  walk(results, arguments, [&](Node* node) {
    if (auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node)) leaves.push_back(leaf->variable);
    if (auto* hidden = dynamic_cast<ReachesLeaves*>(node))
      leaves.insert(leaves.end(), hidden->leaves().begin(), hidden->leaves().end());
  });
  return leaves;
}

bool depends_on_earlier(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments,
                        uint64_t nodes) {
  bool is_found = false;
  walk(results, arguments, [&](Node* node) { is_found |= node->sequence_nr() < nodes; });
  return is_found;
}

bool depends_on(const std::vector<at::Tensor>& results, const at::Tensor& x,
                const std::vector<at::Tensor>& arguments) {
  const auto wanted = node_of(x);
  bool is_found = false;
  walk(results, arguments, [&](Node* node) { is_found |= node == wanted.get(); });
  return is_found;
}

at::Tensor as_given(const at::Tensor& x) {
  struct Same : Node {
    torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
      return std::move(gradients);
    }
    std::string name() const override { return "wanpar::Same"; }
  };
  if (!x.defined() || !x.requires_grad()) return x;
  NoInterceptGuard no_intercept;
  auto node = std::shared_ptr<Same>(new Same, torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(x));
  at::Tensor same;
  {
    at::NoGradGuard no_grad;
    same = x.detach();
  }
  torch::autograd::set_history(same, node);
  return same;
}

}  // namespace wanpar
