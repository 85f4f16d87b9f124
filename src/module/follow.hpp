#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <span>
#include <unordered_map>

namespace wanpar {

/// Knows which tensors stem from a split one: every result of an operator that had one among its inputs.
class Follow {
 public:
  /// `split` numbers the split that a tensor stems from, 0, 1, …
  void mark(const at::Tensor& tensor, int split) {
    auto* impl = tensor.unsafeGetTensorImpl();
    marks_.insert_or_assign(impl, Mark{Weak(tensor.getIntrusivePtr()), split});
    if (marks_.size() > sweep_at_) sweep();
  }

  static constexpr int kNone = -1, kMixed = -2;

  /// The split that a tensor stems from, kNone, or kMixed for tensors of several.
  int of(const at::Tensor& tensor) const {
    if (!tensor.defined()) return kNone;
    auto found = marks_.find(tensor.unsafeGetTensorImpl());
    return found != marks_.end() && !found->second.tensor.expired() ? found->second.split : kNone;
  }

  int of(std::span<const at::Tensor> tensors) const {
    int split = kNone;
    for (auto& tensor : tensors) {
      int one = of(tensor);
      if (one != kNone) split = split == kNone || split == one ? one : kMixed;
    }
    return split;
  }

  void clear() { marks_.clear(); }

 private:
  // A weak pointer keeps the address from being used again, not the memory of the tensor.
  using Weak = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;
  struct Mark {
    Weak tensor;
    int split;
  };

  void sweep() {
    std::erase_if(marks_, [](auto& entry) { return entry.second.tensor.expired(); });
    sweep_at_ = 2 * marks_.size() + 256;
  }

  std::unordered_map<at::TensorImpl*, Mark> marks_;
  size_t sweep_at_ = 256;
};

}  // namespace wanpar
