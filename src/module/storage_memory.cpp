#include "module/storage_memory.hpp"

#include <memory>
#include <mutex>

namespace wanpar {
namespace {

/// What the memory of a storage belongs to: a buffer, or what it came with.
struct Owner {
  at::Tensor buffer = {};
  c10::DataPtr memory = {};
};

void drop(void* owner) { delete static_cast<Owner*>(owner); }

// Two functions that do the same: which of them a storage would be freed by says whether it is claimed.
void drop_claimed(void* owner) { drop(owner); }
void drop_released(void* owner) { drop(owner); }

c10::DataPtr& pointer_of(const at::Tensor& tensor) {
  return tensor.storage().unsafeGetStorageImpl()->_mutable_data_ptr_no_checks();
}

}  // namespace

bool claim_memory(const at::Tensor& tensor) {
  static std::mutex mutex;  // ranks that are threads may have one module
  std::lock_guard lock(mutex);
  if (is_claimed(tensor)) return false;
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  auto* data = pointer_of(tensor).get();
  auto device = tensor.device();
  auto owner = std::make_unique<Owner>();
  owner->memory = std::move(pointer_of(tensor));
  storage->set_data_ptr_noswap(c10::DataPtr(data, owner.release(), &drop_claimed, device));
  return true;
}

bool is_claimed(const at::Tensor& tensor) {
  return tensor.has_storage() && pointer_of(tensor).get_deleter() == &drop_claimed;
}

void lend_memory(const at::Tensor& tensor, const at::Tensor& buffer, int64_t begin, int64_t bytes) {
  auto* first = static_cast<char*>(buffer.mutable_data_ptr()) + begin;
  set_memory(tensor, c10::DataPtr(first, new Owner{buffer}, &drop_claimed, buffer.device()), bytes);
}

void take_memory_back(const at::Tensor& tensor) {
  set_memory(tensor, c10::DataPtr(nullptr, new Owner, &drop_claimed, tensor.device()), 0);
}

void release_memory(const at::Tensor& tensor) {
  (void)pointer_of(tensor).compare_exchange_deleter(&drop_claimed, &drop_released);
}

}  // namespace wanpar
