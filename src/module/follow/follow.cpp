#include "module/follow/follow.hpp"

#include <torch/csrc/autograd/function.h>

#include <algorithm>

namespace wanpar {

void Follow::mark(const at::Tensor& tensor, const SplitPlace& place) {
  mark_view_of_whole(tensor, place);
  if (auto* memory = kept_memory_of(tensor)) memory->is_split = true;
}

bool Follow::is_of_split(const torch::autograd::Node* node) const {
  auto found = nodes_.find(node);
  return found != nodes_.end() && !found->second.expired();
}

void Follow::mark_view_of_whole(const at::Tensor& tensor, const SplitPlace& place) {
  auto* impl = tensor.unsafeGetTensorImpl();
  auto known = marks_.find(impl);
  if (known != marks_.end() && !known->second.tensor.expired()) {
    known->second.place = place;
  } else {
    marks_.insert_or_assign(impl, Mark{Weak(tensor.getIntrusivePtr()), place});
  }
  if (tensor.requires_grad())
    if (auto node = tensor.grad_fn()) nodes_.insert_or_assign(node.get(), node);
  if (marks_.size() > sweep_at_) sweep();
}

const SplitPlace* Follow::of(const at::Tensor& tensor) const {
  if (!tensor.defined()) return nullptr;
  auto found = marks_.find(tensor.unsafeGetTensorImpl());
  return found != marks_.end() && !found->second.tensor.expired() ? &found->second.place : nullptr;
}

bool Follow::touches(std::span<const at::Tensor> tensors) const {
  return std::any_of(tensors.begin(), tensors.end(), [&](auto& x) { return of(x); });
}

bool Follow::is_hidden(const at::Tensor& tensor) const {
  if (!tensor.defined() || tensor.numel() == 0) return false;
  auto* memory = memory_of(tensor);
  return memory && memory->is_split && !of(tensor);
}

std::vector<std::pair<at::Tensor, SplitPlace>> Follow::alive() const {
  std::vector<std::pair<at::Tensor, SplitPlace>> found;
  for (auto& [impl, mark] : marks_)
    if (auto strong = mark.tensor.lock()) {
      at::Tensor tensor(std::move(strong));
      if (!tensor.requires_grad()) found.emplace_back(std::move(tensor), mark.place);
    }
  return found;
}

void Follow::mark_copy(const at::Tensor& tensor, std::span<const at::Tensor> sources) {
  if (auto* memory = kept_memory_of(tensor)) memory->is_copy_of_view = true;
  for (auto& source : sources)
    if (auto* memory = kept_memory_of(source)) memory->copies.emplace_back(tensor.getIntrusivePtr());
}

bool Follow::has_copies(const at::Tensor& tensor) const {
  auto* memory = memory_of(tensor);
  return memory && std::any_of(memory->copies.begin(), memory->copies.end(),
                               [](auto& copy) { return !copy.expired(); });
}

void Follow::mark_unwritten(const at::Tensor& tensor) {
  if (auto* memory = kept_memory_of(tensor)) memory->is_unwritten = true;
}

void Follow::mark_written(const at::Tensor& tensor) {
  if (memory_of(tensor)) kept_memory_of(tensor)->is_unwritten = false;
}

bool Follow::is_unwritten(const at::Tensor& tensor) const {
  auto* memory = memory_of(tensor);
  return memory && memory->is_unwritten && tensor.numel() > 0;
}

bool Follow::is_copy_of_view(const at::Tensor& tensor) const {
  auto* memory = memory_of(tensor);
  return memory && memory->is_copy_of_view;
}

const Follow::Memory* Follow::memory_of(const at::Tensor& tensor) const {
  if (!tensor.defined() || !tensor.has_storage()) return nullptr;
  auto found = memories_.find(tensor.storage().unsafeGetStorageImpl());
  return found != memories_.end() && !found->second.storage.expired() ? &found->second : nullptr;
}

Follow::Memory* Follow::kept_memory_of(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.has_storage()) return nullptr;
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  auto known = memories_.find(storage);
  if (known == memories_.end() || known->second.storage.expired())
    known = memories_.insert_or_assign(storage, Memory{tensor.storage().getWeakStorageImpl()}).first;
  return &known->second;
}

void Follow::sweep() {
  std::erase_if(marks_, [](auto& entry) { return entry.second.tensor.expired(); });
  std::erase_if(memories_, [](auto& entry) { return entry.second.storage.expired(); });
  std::erase_if(nodes_, [](auto& entry) { return entry.second.expired(); });
  sweep_at_ = 2 * marks_.size() + 256;
}

}  // namespace wanpar
