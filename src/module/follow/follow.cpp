#include "module/follow/follow.hpp"

#include <algorithm>

namespace wanpar {

void Follow::mark(const at::Tensor& tensor, const SamplePlacement& place) {
  mark_without_storage(tensor, place);
  if (tensor.has_storage())
    memories_.insert_or_assign(tensor.storage().unsafeGetStorageImpl(),
                               tensor.storage().getWeakStorageImpl());
}

void Follow::mark_without_storage(const at::Tensor& tensor, const SamplePlacement& place) {
  marks_.insert_or_assign(tensor.unsafeGetTensorImpl(), Mark{Weak(tensor.getIntrusivePtr()), place});
  if (marks_.size() > sweep_at_) sweep();
}

const SamplePlacement* Follow::of(const at::Tensor& tensor) const {
  if (!tensor.defined()) return nullptr;
  auto found = marks_.find(tensor.unsafeGetTensorImpl());
  return found != marks_.end() && !found->second.tensor.expired() ? &found->second.place : nullptr;
}

bool Follow::touches(std::span<const at::Tensor> tensors) const {
  return std::any_of(tensors.begin(), tensors.end(), [&](auto& x) { return of(x); });
}

bool Follow::is_hidden(const at::Tensor& tensor) const {
  if (!tensor.defined() || tensor.numel() == 0 || !tensor.has_storage() || of(tensor)) return false;
  auto found = memories_.find(tensor.storage().unsafeGetStorageImpl());
  return found != memories_.end() && !found->second.expired();
}

void Follow::sweep() {
  std::erase_if(marks_, [](auto& entry) { return entry.second.tensor.expired(); });
  std::erase_if(memories_, [](auto& entry) { return entry.second.expired(); });
  sweep_at_ = 2 * marks_.size() + 256;
}

}  // namespace wanpar
