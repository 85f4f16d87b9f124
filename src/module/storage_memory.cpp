#include "module/storage_memory.hpp"

#include <memory>
#include <mutex>

namespace wanpar {
namespace {

/// The owner of a storage's memory: a buffer, or the original data pointer.
struct Owner {
  std::string name = {};
  at::Tensor buffer = {};
  c10::DataPtr memory = {};
  std::function<void()> dropped = {};
};

void drop(void* context) {
  const std::unique_ptr<Owner> owner(static_cast<Owner*>(context));
  if (owner->dropped) owner->dropped();
}

// Two equal deleters: which of them a storage has tells whether it is owned.
void drop_claimed(void* owner) { drop(owner); }
void drop_released(void* owner) { drop(owner); }

c10::DataPtr& pointer_of(const at::Tensor& tensor) {
  return tensor.storage().unsafeGetStorageImpl()->_mutable_data_ptr_no_checks();
}

Owner& owner_of(const at::Tensor& claimed) { return *static_cast<Owner*>(pointer_of(claimed).get_context()); }

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
  auto* owner = new Owner{.buffer = buffer};
  set_memory(tensor, c10::DataPtr(first, owner, &drop_claimed, buffer.device()), bytes);
}

void take_memory_back(const at::Tensor& tensor, const std::string& name) {
  // On a device that cannot be read: torch::save would silently write an empty tensor otherwise.
  auto* owner = new Owner{.name = name};
  set_memory(tensor, c10::DataPtr(nullptr, owner, &drop_claimed, at::kMeta), 0);
}

const std::string* name_of_absent(const at::Tensor& tensor) {
  if (!tensor.defined() || !is_claimed(tensor)) return nullptr;
  bool is_absent = tensor.numel() > 0 && tensor.storage().nbytes() == 0;
  return is_absent ? &owner_of(tensor).name : nullptr;
}

at::Tensor stand_in_like(const at::Tensor& x, const std::string& name, std::function<void()> dropped) {
  auto storage = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), 0,
                                                       c10::DataPtr(nullptr, x.device()), nullptr, false);
  auto tensor =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(std::move(storage)), x.key_set(), x.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(x.sizes());
  auto* owner = new Owner{.name = name, .dropped = std::move(dropped)};
  set_memory(tensor, c10::DataPtr(nullptr, owner, &drop_claimed, at::kMeta), 0);
  return tensor;
}

bool is_stand_in(const at::Tensor& tensor) {
  return tensor.defined() && is_claimed(tensor) && owner_of(tensor).dropped;
}

void drop_stand_in(at::Tensor& tensor) {
  owner_of(tensor).dropped = {};
  tensor.reset();
}

void release_memory(const at::Tensor& tensor) {
  (void)pointer_of(tensor).compare_exchange_deleter(&drop_claimed, &drop_released);
}

}  // namespace wanpar
