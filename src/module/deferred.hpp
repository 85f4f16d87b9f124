#pragma once
#include <ATen/core/Tensor.h>

namespace wanpar {

/// Whether a tensor was created by deferred() and has no memory yet.
inline bool is_deferred(const at::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() && !tensor.is_meta() && tensor.numel() > 0 &&
         tensor.storage().nbytes() == 0;
}

}  // namespace wanpar
