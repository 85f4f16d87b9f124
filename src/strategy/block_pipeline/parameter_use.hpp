#pragma once
#include <wanpar/module/parameters.hpp>

#include <deque>

#include "strategy/block_pipeline/pipeline_stack.hpp"

namespace wanpar {

/// What becomes of the gradients of a parameter that several stages use, where the module lists it.
enum class Shared { refused, summed };

/// The leaves that a stage's blocks depend on, other than through what they are given. Throws Error for one
/// whose gradient would not be whole on `stage`.
void check_inside(const Tensors& leaves, const NamedTensors& parameters,
                  const std::deque<PipelineStack>& stacks, int stage, Shared shared);

/// Likewise the leaves that all else depends on.
void check_outside(const Tensors& leaves, const NamedTensors& parameters,
                   const std::deque<PipelineStack>& stacks, Shared shared);

}  // namespace wanpar
