#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
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

// Memory that comes and goes on the word of one owner, as that of sharded parameters does. The storage itself
// says so, and whoever meets the tensor can see it.

/// Takes the right to a storage, which keeps the memory that it has; false where somebody has it.
bool claim_memory(const at::Tensor& tensor);
/// Whether somebody has it.
bool is_claimed(const at::Tensor& tensor);
/// Lends a claimed storage memory of `buffer`, from byte `begin` on, which stays alive for as long.
void lend_memory(const at::Tensor& tensor, const at::Tensor& buffer, int64_t begin, int64_t bytes);
/// Leaves a claimed storage without memory; `name` is what errors call it.
void take_memory_back(const at::Tensor& tensor, const std::string& name);
/// The name of a tensor that has elements, but whose claimed storage is without memory; null for any other.
const std::string* name_of_absent(const at::Tensor& tensor);
/// A tensor like x without memory, in the place of one that is elsewhere: whoever lets go of it, by
/// zero_grad() say, is heard of by `dropped`.
at::Tensor stand_in_like(const at::Tensor& x, const std::string& name, std::function<void()> dropped);
bool is_stand_in(const at::Tensor& tensor);
/// Lets go of one unheard.
void drop_stand_in(at::Tensor& tensor);

/// Gives the right up: the storage keeps what it has.
void release_memory(const at::Tensor& tensor);

}  // namespace wanpar
