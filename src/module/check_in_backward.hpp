#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

namespace wanpar {

/// Calls `check`, which may throw, in each backward that passes x, before any gradient of the inputs of x.
void check_in_backward(const at::Tensor& x, std::function<void()> check);

}  // namespace wanpar
