#pragma once
#include <ATen/core/Tensor.h>

#include <span>

namespace c10 {
class OperatorHandle;
}

namespace wanpar {

/// Throws Error, with the parameter and the operator, if the operator would access a parameter that is
/// currently sharded (without memory).
void require_memory(const c10::OperatorHandle& op, std::span<const at::Tensor> inputs);

/// From now on, every operator on this tensor, and on new views of it, is intercepted anywhere (even outside
/// a Scope), and checked by require_memory.
void watch(const at::Tensor& tensor);

}  // namespace wanpar
