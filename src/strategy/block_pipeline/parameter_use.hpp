#pragma once
#include <wanpar/module/parameters.hpp>

#include <deque>

#include "strategy/block_pipeline/pipeline_stack.hpp"

namespace wanpar {

/// Whether gradients of a listed parameter that several stages use are rejected, or summed over the stages.
enum class Shared { refused, summed };

/// Checks the leaves that a stage's blocks depend on, other than through their arguments. Throws Error if
/// `stage` would get only a part of the gradient of one.
void check_inside(const Tensors& leaves, const NamedTensors& parameters,
                  const std::deque<PipelineStack>& stacks, int stage, Shared shared);

/// The same for the leaves that the parts outside the blocks depend on.
void check_outside(const Tensors& leaves, const NamedTensors& parameters,
                   const std::deque<PipelineStack>& stacks, Shared shared);

}  // namespace wanpar
