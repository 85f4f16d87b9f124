#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>

namespace wanpar {

/// Replaces the memory of a tensor's storage, for all its views. Not by a tensor operator, which would bump
/// the version counter.
inline void set_memory(const at::Tensor& tensor, c10::DataPtr data, size_t bytes) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(std::move(data));
  storage->set_nbytes(bytes);
}

/// Frees the memory of a tensor's storage.
inline void free_memory(const at::Tensor& tensor) {
  set_memory(tensor, c10::DataPtr(nullptr, tensor.device()), 0);
}

// Memory that is managed by one owner, as that of sharded parameters. The mark is on the storage itself,
// visible to everyone who has the tensor.

/// Takes ownership of a storage, which keeps its memory; false if it is already owned.
bool claim_memory(const at::Tensor& tensor);
/// Whether the storage is owned.
bool is_claimed(const at::Tensor& tensor);
/// Makes an owned storage a view of `buffer`, from byte `begin` on, which it keeps alive.
void lend_memory(const at::Tensor& tensor, const at::Tensor& buffer, int64_t begin, int64_t bytes);
/// Leaves an owned storage without memory; `name` is for errors.
void take_memory_back(const at::Tensor& tensor, const std::string& name);
/// The name of a tensor that has elements, but whose owned storage has no memory; null for any other.
const std::string* name_of_absent(const at::Tensor& tensor);
/// A tensor like x without memory: a placeholder for one that is stored elsewhere. Destroying it (by
/// zero_grad(), for instance) calls `dropped`.
at::Tensor stand_in_like(const at::Tensor& x, const std::string& name, std::function<void()> dropped);
bool is_stand_in(const at::Tensor& tensor);
/// Destroys a placeholder without calling `dropped`.
void drop_stand_in(at::Tensor& tensor);

/// Gives up ownership; the storage keeps its memory.
void release_memory(const at::Tensor& tensor);

}  // namespace wanpar
