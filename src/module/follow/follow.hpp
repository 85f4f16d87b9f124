#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <span>
#include <unordered_map>

namespace wanpar {

/// The placement of the samples in a tensor: along `dim`, whose extent is before · length · after (1 · length
/// · 1 unless the dimension was merged with others, by reshape).
struct SamplePlacement {
  int split;       ///< which of several split dimensions, 0, 1, …
  int64_t length;  ///< of this rank's shard
  int64_t total;   ///< of all ranks' shards
  int64_t dim;
  int64_t before = 1, after = 1;

  int64_t extent() const { return before * length * after; }
  int64_t global_extent() const { return before * total * after; }
  bool operator==(const SamplePlacement&) const = default;
};

/// Tracks which tensors derive from a split one, and their placement, by records of plain tensors and of
/// their storages.
class Follow {
 public:
  void mark(const at::Tensor& tensor, const SamplePlacement& place);
  /// As mark(), but leaves the storage unmarked, as other tensors in it do not derive from the split one.
  void mark_without_storage(const at::Tensor& tensor, const SamplePlacement& place);
  /// Null if the tensor does not derive from a split one.
  const SamplePlacement* of(const at::Tensor& tensor) const;
  bool touches(std::span<const at::Tensor> tensors) const;
  /// Whether the tensor is unmarked, but its storage is marked.
  bool is_hidden(const at::Tensor& tensor) const;

 private:
  // Weak pointers prevent reuse of the address, without keeping the memory.
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
