#pragma once
#include <ATen/core/ivalue.h>

#include <optional>
#include <span>
#include <string_view>

#include "module/follow/follow.hpp"

namespace wanpar {

/// One operator that has met a split tensor, as its rule sees it.
struct Step {
  const Follow& follow;
  const Operator& op;
  std::span<const at::Tensor> outputs;  ///< none before the operator ran

  [[noreturn]] void refuse(const std::string& reason) const { follow.refuse(op, reason); }
  const c10::IValue& argument(size_t i) const { return op.arguments[i]; }
  /// The i-th argument, where it is a tensor.
  const at::Tensor& tensor(size_t i) const;
  /// The place in the i-th argument; null where that is no split tensor.
  const SplitPlace* place(size_t i) const;
  /// Whether x, which is not split, has one element along `dim` for all those of the split that it meets
  /// there. Refuses where that cannot be told from one for the single element of some rank.
  bool is_one(const at::Tensor& x, int64_t dim, const SplitPlace& split) const;
  /// The integer argument of this name, counted from the front of `dims` dimensions; none where it was left
  /// out.
  std::optional<int64_t> dim(std::string_view name, int64_t dims) const;
  /// The list of dimensions of this name, likewise.
  std::optional<std::vector<int64_t>> dims(std::string_view name, int64_t dims) const;
  /// What a convolution is given along dimension `dim` of its weight: one number for all, or for each; 0
  /// where it is a word ("same").
  int64_t along(std::string_view name, int64_t dim) const;
  /// The argument of this name; null where the operator has none.
  const c10::IValue* named(std::string_view name) const;
};

/// Gives the place in what the operator gives, none where that no longer holds the split dimension, or
/// refuses.
using Rule = std::optional<SplitPlace> (*)(const Step&);

/// Where the split dimension goes in operators that move, cut or join dimensions; null for any other.
Rule rule_of_views(std::string_view name);
/// And in operators that compute.
Rule rule_of_math(std::string_view name);
/// In operators that work on each element for itself.
std::optional<SplitPlace> elementwise(const Step& step);

}  // namespace wanpar
