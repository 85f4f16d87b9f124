// Gradients of what is whole and meets split tokens, and graphs through which they cannot come right.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "strategy/sequence_parallel/sequence_engine.hpp"

namespace wanpar {

/// A weight, or any other tensor that every rank holds whole, meets this rank's tokens only. Its gradient is
/// the sum over the ranks, and autograd is told so where the two meet.
at::Tensor SequenceEngine::with_summed_gradient(const at::Tensor& x) {
  if (!pass_.has_gradients || !x.requires_grad()) return x;
  if (at::GradMode::is_enabled()) return group_.with_summed_gradient(x);
  // In the forward of an autograd function of the module's own, or where no gradient is wanted.
  pass_.met_unrecorded.push_back(torch::autograd::impl::gradient_edge(x).function.get());
  return x;
}

/// A node of the graph whose gradients nobody here sees must not be passed by those of split tokens.
void SequenceEngine::check_graph(std::span<const at::Tensor> results) const {
  if (!pass_.has_gradients) return;
  std::vector<torch::autograd::Node*> to_see;
  std::unordered_set<const void*> seen;
  for (auto& x : results)
    if (x.defined() && x.requires_grad() && x.grad_fn()) to_see.push_back(x.grad_fn().get());
  std::unordered_set<const void*> borders;  // behind them the graph is the caller's
  for (auto& x : pass_.arguments)
    if (x.defined() && x.grad_fn()) borders.insert(x.grad_fn().get());
  while (!to_see.empty()) {
    auto* node = to_see.back();
    to_see.pop_back();
    if (!node || !seen.insert(node).second || borders.contains(node)) continue;
    // Hooks on nodes are other strategies'.
    if (!node->tensor_pre_hooks().empty() && !node->name().ends_with("AccumulateGrad"))
      throw Error(fmt::format(
          "SequenceParallel: the module has registered a gradient hook (behind {}), which would see this "
          "rank's part of a gradient only; register it on the result, or on a parameter",
          node->name()));
    bool is_own_function = node->name().find("CppNode<") != std::string::npos &&
                           node->name().find("wanpar::") == std::string::npos;
    for (auto& edge : node->next_edges()) {
      if (is_own_function && pass_.follow.is_of_split(edge.function.get()))
        throw Error(fmt::format(
            "SequenceParallel: {} takes split tokens, and its backward is the module's own, which "
            "would see this rank's part of a gradient only; write it by operators",
            node->name()));
      if (is_own_function &&
          std::count(pass_.met_unrecorded.begin(), pass_.met_unrecorded.end(), edge.function.get()))
        throw Error(fmt::format(
            "SequenceParallel: in {} a weight meets split tokens inside of a function whose backward is the "
            "module's own, and gives this rank's part of the gradient; write it by operators",
            node->name()));
      to_see.push_back(edge.function.get());
    }
  }
}

}  // namespace wanpar
