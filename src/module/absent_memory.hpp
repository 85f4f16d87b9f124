#pragma once
#include <ATen/core/Tensor.h>

#include <span>

namespace c10 {
class OperatorHandle;
}

namespace wanpar {

/// Throws Error, which names the parameter and the operator, where the operator would read or write one whose
/// memory is away.
void require_memory(const c10::OperatorHandle& op, std::span<const at::Tensor> inputs);

/// Operators on this tensor, and on views that are made of it from here on, are met wherever they are called:
/// require_memory is asked of each.
void watch(const at::Tensor& tensor);

}  // namespace wanpar
