#include "module/leaves.hpp"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <unordered_set>

namespace wanpar {

std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& results,
                                  const std::vector<at::Tensor>& arguments) {
  using torch::autograd::Node;
  auto node_of = [](const at::Tensor& x) {
    return x.requires_grad() ? torch::autograd::impl::gradient_edge(x).function : nullptr;
  };
  std::vector<std::shared_ptr<Node>> held;  // a leaf's node lives only while somebody holds it
  std::unordered_set<Node*> seen{nullptr};
  for (auto& argument : arguments) {
    held.push_back(node_of(argument));
    seen.insert(held.back().get());
  }
  std::vector<Node*> open;
  auto visit = [&](Node* node) {
    if (seen.insert(node).second) open.push_back(node);
  };
  for (auto& result : results) {
    held.push_back(node_of(result));
    visit(held.back().get());
  }
  std::vector<at::Tensor> leaves;
  while (!open.empty()) {
    auto* node = open.back();
    open.pop_back();
    if (auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node)) leaves.push_back(leaf->variable);
    for (auto& edge : node->next_edges()) visit(edge.function.get());
  }
  return leaves;
}

}  // namespace wanpar
