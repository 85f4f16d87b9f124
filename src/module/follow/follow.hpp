#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace torch::autograd {
struct Node;
}

namespace wanpar {

/// Where the elements of a split dimension lie in a tensor: along `dim`, whose extent is before · length ·
/// after (1 · length · 1 unless the dimension was merged with others).
struct SplitPlace {
  int split;       ///< which split, 0, 1, …
  int64_t length;  ///< this rank's share of it
  int64_t total;   ///< all ranks' shares together
  int64_t dim;
  int64_t before = 1, after = 1;

  int64_t extent() const { return before * length * after; }
  int64_t whole_extent() const { return before * total * after; }
  bool operator==(const SplitPlace&) const = default;
};

/// Knows which tensors stem from a split, and where in them it lies. Marks hang on tensors, and on the
/// memory below them: a tensor over memory that holds split elements, which has no mark of its own, was made
/// or written out of sight.
class Follow {
 public:
  void mark(const at::Tensor& tensor, const SplitPlace& place);
  /// The same for a view of memory that holds what is whole.
  void mark_view_of_whole(const at::Tensor& tensor, const SplitPlace& place);
  /// Whether this is the gradient function of a split tensor.
  bool is_of_split(const torch::autograd::Node* node) const;
  /// Null where the tensor does not stem from a split.
  const SplitPlace* of(const at::Tensor& tensor) const;
  bool touches(std::span<const at::Tensor> tensors) const;
  /// Whether the tensor has no mark, and its memory holds split elements.
  bool is_hidden(const at::Tensor& tensor) const;

  /// Those that are alive, and no part of a graph: what a module keeps from pass to pass.
  std::vector<std::pair<at::Tensor, SplitPlace>> alive() const;

  /// A copy that stands where one rank would have a view: what is written to it would be lost.
  void mark_copy(const at::Tensor& tensor, std::span<const at::Tensor> sources);
  bool is_copy_of_view(const at::Tensor& tensor) const;
  /// Whether there is such a copy of something in this tensor's memory.
  bool has_copies(const at::Tensor& tensor) const;

  /// Memory that no operator has written yet.
  void mark_unwritten(const at::Tensor& tensor);
  void mark_written(const at::Tensor& tensor);
  bool is_unwritten(const at::Tensor& tensor) const;

 private:
  // Weak pointers keep the address from being used again, not the memory.
  using Weak = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;
  using WeakMemory = c10::weak_intrusive_ptr<c10::StorageImpl>;
  struct Mark {
    Weak tensor;
    SplitPlace place;
  };
  struct Memory {
    WeakMemory storage;
    bool is_split = false, is_copy_of_view = false, is_unwritten = false;
    std::vector<Weak> copies = {};
  };
  const Memory* memory_of(const at::Tensor& tensor) const;
  Memory* kept_memory_of(const at::Tensor& tensor);
  void sweep();

  std::unordered_map<at::TensorImpl*, Mark> marks_;
  std::unordered_map<c10::StorageImpl*, Memory> memories_;
  std::unordered_map<const torch::autograd::Node*, std::weak_ptr<torch::autograd::Node>> nodes_;
  size_t sweep_at_ = 256;
};

}  // namespace wanpar
