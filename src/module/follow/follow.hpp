#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <wanpar/module/interceptor.hpp>

namespace wanpar {

/// Where the elements of a split dimension lie in a tensor: along `dim`, whose extent is before · length ·
/// after (1 · length · 1 unless the dimension was merged with others).
struct SplitPlace {
  int split;       ///< which split, 0, 1, …
  int64_t length;  ///< this rank's share of it
  int64_t total;   ///< all ranks' shares together
  int64_t dim;
  int64_t before = 1, after = 1;
  bool single = false;  ///< some rank's share is one element: broadcasting does not tell it from one for all

  int64_t extent() const { return before * length * after; }
  bool operator==(const SplitPlace&) const = default;
};

/// Follows a split dimension through the operators of a module: which tensors stem from it, and where in them
/// it lies. An operator that would mix the elements of different ranks is refused by an Error that names it.
class Follow {
 public:
  /// Errors begin with `strategy` and end with `remedy`.
  Follow(std::string strategy, std::string remedy)
      : strategy_(std::move(strategy)), remedy_(std::move(remedy)) {}

  void mark(const at::Tensor& tensor, const SplitPlace& place);
  /// Null where the tensor does not stem from a split.
  const SplitPlace* of(const at::Tensor& tensor) const;
  bool touches(std::span<const at::Tensor> tensors) const;
  /// Whether x, which is not split, may have an extent of one because the module asked how many elements are
  /// here: positions, say, made for as many tokens as there are. Known only where some rank has one.
  bool may_be_share(const at::Tensor& x) const;

  /// To be told of each operator, so that what it gives is marked. Throws Error for what it cannot carry.
  void before(const Operator& op) const;
  void after(const Operator& op, std::span<const at::Tensor> outputs);

  /// Says too which dimension is split, of the first input that is.
  [[noreturn]] void refuse(const Operator& op, const std::string& reason) const;

 private:
  // A weak pointer keeps the address from being used again, not the memory of the tensor.
  using Weak = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;
  struct Mark {
    Weak tensor;
    std::optional<SplitPlace> place;  // none: not split, but may have the extent of a share
  };
  const Mark* mark_of(const at::Tensor& tensor) const;
  void keep(const at::Tensor& tensor, std::optional<SplitPlace> place);
  void mark_what_may_be_share(const Operator& op, std::span<const at::Tensor> outputs);
  void sweep();

  std::string strategy_, remedy_;
  std::unordered_map<at::TensorImpl*, Mark> marks_;
  size_t sweep_at_ = 256;
  bool single_ = false;  // there is such a place
};

}  // namespace wanpar
