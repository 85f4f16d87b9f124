#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

namespace wanpar {

/// Each backward that passes x calls `check` first, which may throw: before any gradient of what x was made
/// of.
void check_in_backward(const at::Tensor& x, std::function<void()> check);

}  // namespace wanpar
