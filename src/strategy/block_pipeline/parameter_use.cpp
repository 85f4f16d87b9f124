#include "strategy/block_pipeline/parameter_use.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

/// The name of a parameter; empty for any other tensor.
std::string name_among(const NamedTensors& parameters, const at::Tensor& tensor) {
  for (auto& [name, parameter] : parameters)
    if (parameter.is_same(tensor)) return name;
  return {};
}

std::string text_of(const NamedTensors& parameters, const at::Tensor& tensor) {
  auto name = name_among(parameters, tensor);
  return name.empty() ? fmt::format("a tensor {} that needs a gradient and that the module does not list",
                                    tensor.sizes())
                      : name;
}

}  // namespace

void check_inside(const Tensors& leaves, const NamedTensors& parameters,
                  const std::deque<PipelineStack>& stacks, int stage, Shared shared) {
  bool sums = shared == Shared::summed;
  bool lists = std::all_of(stacks.begin(), stacks.end(), [](auto& s) { return s.lists_tensors(); });
  if (!lists && !leaves.empty())
    throw UsageError(
        "BlockPipeline: the block stack does not list its parameters, so that gradients do not know their "
        "stage; set BlockStack::tensors, or run under NoGradGuard");
  for (auto& leaf : leaves) {
    auto owner = owner_among(stacks, leaf);
    if (owner == stage || (sums && owner < 0 && !name_among(parameters, leaf).empty())) continue;
    throw UsageError(fmt::format(
        "BlockPipeline: {} is used by a block that is not the only one to hold it, or the block "
        "reads what was made of it from somewhere else than its arguments, so its gradient would "
        "not be whole; give that to the blocks as a side tensor, or use train_step, which sums the "
        "gradients of listed parameters that several stages use",
        text_of(parameters, leaf)));
  }
}

void check_outside(const Tensors& leaves, const NamedTensors& parameters,
                   const std::deque<PipelineStack>& stacks, Shared shared) {
  bool sums = shared == Shared::summed;
  for (auto& leaf : leaves) {
    auto owner = owner_among(stacks, leaf);
    bool is_replicated =
        sums ? owner < 0 && !name_among(parameters, leaf).empty() : owner == PipelineStack::kOutside;
    if (is_replicated || leaf.numel() == 0) continue;
    throw UsageError(
        fmt::format("BlockPipeline: {} is used before or after the blocks, where its gradient would not be "
                    "whole on every rank; list it as a parameter of the module, and of no block",
                    text_of(parameters, leaf)));
  }
}

}  // namespace wanpar
