#include "module/shard_tensor.hpp"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include "module/dispatch_keys.hpp"

namespace wanpar {

ShardTensor::ShardTensor(const at::Tensor& local, Communicator group, bool is_piece)
    : TensorImpl(c10::Storage(local.storage()), local.key_set().add(kSplit), local.dtype()),
      group_(std::move(group)),
      is_piece_(is_piece) {
  set_sizes_and_strides(local.sizes(), local.strides(), local.storage_offset());
  if (!is_inference()) set_version_counter(local.unsafeGetTensorImpl()->version_counter());
}

at::Tensor ShardTensor::memory() const {
  const c10::InferenceMode as_it_was(!key_set().has(c10::DispatchKey::ADInplaceOrView));
  auto impl =
      c10::make_intrusive<c10::TensorImpl>(c10::Storage(storage()), key_set().remove(kSplit), dtype());
  impl->set_sizes_and_strides(sizes(), strides(), storage_offset());
  return at::Tensor(std::move(impl));
}

at::Tensor ShardTensor::local() {
  auto same = memory();
  if (!is_inference()) same.unsafeGetTensorImpl()->set_version_counter(version_counter());
  return same;
}

c10::intrusive_ptr<c10::TensorImpl> ShardTensor::shallow_copy_and_detach(const c10::VariableVersion& version,
                                                                         bool allow_change) const {
  auto copy = c10::make_intrusive<ShardTensor>(memory(), group_, is_piece_);
  if (!copy->is_inference()) copy->set_version_counter(version);
  copy->set_allow_tensor_metadata_change(allow_change);
  return copy;
}

c10::intrusive_ptr<c10::TensorImpl> ShardTensor::shallow_copy_and_detach(c10::VariableVersion&& version,
                                                                         bool allow_change) const {
  return shallow_copy_and_detach(static_cast<const c10::VariableVersion&>(version), allow_change);
}

void ShardTensor::shallow_copy_from(const c10::intrusive_ptr<TensorImpl>& other) {
  copy_tensor_metadata(other.get(), this, version_counter(), allow_tensor_metadata_change());
  if (auto* shard = dynamic_cast<const ShardTensor*>(other.get()))
    group_ = shard->group_, is_piece_ = shard->is_piece_;
  key_set_ = key_set_.add(kSplit);
}

ShardTensor* as_shard(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.key_set().has(kSplit) || !tensor.has_storage()) return nullptr;
  return static_cast<ShardTensor*>(tensor.unsafeGetTensorImpl());
}

at::Tensor shard_of(const at::Tensor& local, const Communicator& group, bool is_piece) {
  if (group.size() == 1) return local;
  const c10::InferenceMode as_it_was(local.is_inference());
  return at::detail::make_tensor<ShardTensor>(local, group, is_piece);
}

at::Tensor local_of(const at::Tensor& tensor) {
  auto* shard = as_shard(tensor);
  return shard ? shard->local() : tensor;
}

}  // namespace wanpar
