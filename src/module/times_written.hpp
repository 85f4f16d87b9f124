#pragma once
#include <ATen/core/Tensor.h>

namespace wanpar {

/// How often x has been written to, by LibTorch's count; inference tensors have none.
inline int64_t times_written(const at::Tensor& x) {
  return x.defined() && !x.is_inference() ? x._version() : 0;
}

}  // namespace wanpar
