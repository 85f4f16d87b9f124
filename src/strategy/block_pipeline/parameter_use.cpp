#include "strategy/block_pipeline/parameter_use.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

/// Empty for a tensor that is none of these.
std::string name_among(const NamedTensors& parameters, const at::Tensor& tensor) {
  for (auto& [name, parameter] : parameters)
    if (parameter.is_same(tensor)) return name;
  return {};
}

std::string text_of(const NamedTensors& parameters, const at::Tensor& tensor) {
  auto name = name_among(parameters, tensor);
  return name.empty() ? fmt::format("a parameter {} that the module does not list", tensor.sizes()) : name;
}

}  // namespace

void ParameterUse::examine(bool on) {
  is_examining_ = on;
  inside_.clear(), outside_.clear(), ignored_.clear();
}

void ParameterUse::ignore(const at::Tensor& leaf) {
  if (is_examining_ && leaf.defined()) ignored_.emplace(leaf.unsafeGetTensorImpl(), leaf);
}

void ParameterUse::note(const Operator& op, bool is_inside) {
  if (!is_examining_) return;
  auto& used = is_inside ? inside_ : outside_;
  for (auto input : op.inputs) {
    if (!input.requires_grad() || !input.is_leaf()) continue;
    auto leaf =
        input.is_view() ? input._base() : input;  // a view made without gradients says that it is a leaf
    if (!ignored_.contains(leaf.unsafeGetTensorImpl())) used.emplace(leaf.unsafeGetTensorImpl(), leaf);
  }
}

void ParameterUse::check(const NamedTensors& parameters, const std::deque<PipelineStack>& stacks, int stage,
                         Shared shared) const {
  bool sums = shared == Shared::summed;
  auto is_listed = [&](const at::Tensor& tensor) { return !name_among(parameters, tensor).empty(); };
  bool lists = std::all_of(stacks.begin(), stacks.end(), [](auto& s) { return s.lists_tensors(); });
  if (!lists && !inside_.empty())
    throw Error(
        "BlockPipeline: the block stack does not list its parameters, so that gradients do not know their "
        "stage; set BlockStack::tensors, or run under NoGradGuard");
  for (auto& [impl, tensor] : inside_) {
    auto owner = owner_among(stacks, tensor);
    bool is_whole = owner == stage || (sums && owner < 0 && is_listed(tensor));
    if (!is_whole)
      throw Error(
          fmt::format("BlockPipeline: {} is used by a block that is not the only one to hold it, so its "
                      "gradient would not be whole; use train_step, which sums the gradients of listed "
                      "parameters that several stages use",
                      text_of(parameters, tensor)));
  }
  for (auto& [impl, tensor] : outside_) {
    auto owner = owner_among(stacks, tensor);
    bool is_whole = sums ? owner < 0 && is_listed(tensor) : owner == PipelineStack::kOutside;
    if (!is_whole)
      throw Error(
          fmt::format("BlockPipeline: {} is used before or after the blocks, where its gradient would not be "
                      "whole on every rank; list it as a parameter of the module, and of no block",
                      text_of(parameters, tensor)));
  }
}

}  // namespace wanpar
