#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <span>
#include <unordered_map>

namespace wanpar {

/// Where the elements of a followed dimension lie in a tensor: along `dim`, whose extent is before · length ·
/// after (1 · length · 1 unless the dimension was merged with others).
struct SamplePlacement {
  int split;       ///< which of several, 0, 1, …
  int64_t length;  ///< this rank's share of it
  int64_t total;   ///< all ranks' shares together
  int64_t dim;
  int64_t before = 1, after = 1;

  int64_t extent() const { return before * length * after; }
  int64_t global_extent() const { return before * total * after; }
  bool operator==(const SamplePlacement&) const = default;
};

/// Knows which tensors stem from one, and where in them it lies, by marks on plain tensors and on the memory
/// below them.
class Follow {
 public:
  void mark(const at::Tensor& tensor, const SamplePlacement& place);
  /// The same for a view of memory that holds other things.
  void mark_without_storage(const at::Tensor& tensor, const SamplePlacement& place);
  /// Null where the tensor does not stem from one.
  const SamplePlacement* of(const at::Tensor& tensor) const;
  bool touches(std::span<const at::Tensor> tensors) const;
  /// Whether the tensor has no mark, and its memory does.
  bool is_hidden(const at::Tensor& tensor) const;

 private:
  // Weak pointers keep the address from being used again, not the memory.
  using Weak = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;
  using WeakMemory = c10::weak_intrusive_ptr<c10::StorageImpl>;
  struct Mark {
    Weak tensor;
    SamplePlacement place;
  };
  void sweep();

  std::unordered_map<at::TensorImpl*, Mark> marks_;
  std::unordered_map<c10::StorageImpl*, WeakMemory> memories_;
  size_t sweep_at_ = 256;
};

}  // namespace wanpar
