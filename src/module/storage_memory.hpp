#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

namespace wanpar {

/// Gives the storage of a tensor other memory, which all its views see. No tensor operator does it: that
/// would count as a change of the values.
inline void set_memory(const at::Tensor& tensor, c10::DataPtr data, size_t bytes) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(std::move(data));
  storage->set_nbytes(bytes);
}

/// Leaves the storage of a tensor without memory.
inline void free_memory(const at::Tensor& tensor) {
  set_memory(tensor, c10::DataPtr(nullptr, tensor.device()), 0);
}

}  // namespace wanpar
