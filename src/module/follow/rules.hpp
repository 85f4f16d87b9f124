#pragma once
#include <ATen/core/DimVector.h>
#include <ATen/core/ivalue.h>
#include <wanpar/extend/module/interceptor.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "module/follow/follow.hpp"

namespace wanpar {

/// An input that no rank has split, with as many elements along `dim` as all ranks' shares together: each
/// rank takes its own.
struct SlicedInput {
  size_t input;  // among the operator's
  int64_t dim;
  SamplePlacement like;
};

/// A split input whose tokens lie otherwise over the ranks than those that it meets.
struct RedistributedInput {
  size_t input;
  SamplePlacement like;  // as they are to lie
};

/// What a rule finds of an operator that has met a split tensor.
struct Verdict {
  std::optional<SamplePlacement> place = {};  ///< of what the operator gives; none where that holds no split
  std::string mixes = {};  ///< why it needs elements of other ranks; empty where it does not

  bool is_local() const { return mixes.empty(); }
};

/// One operator that has met a split tensor, as its rule sees it.
struct Step {
  const Follow& follow;
  const Operator& op;
  at::DimVector sizes;                                 ///< of the first argument, before the operator ran
  std::span<const at::Tensor> outputs;                 ///< none before
  std::vector<SlicedInput> slices = {};                ///< what the operator wants cut
  std::vector<RedistributedInput> redistributed = {};  ///< and moved

  const c10::IValue& argument(size_t i) const { return op.arguments[i]; }
  /// The i-th argument, where it is a tensor.
  const at::Tensor& tensor(size_t i) const;
  /// How many dimensions the first argument has.
  int64_t dims() const { return static_cast<int64_t>(sizes.size()); }
  /// The place in the i-th argument; null where that is no split tensor.
  const SamplePlacement* place(size_t i) const;
  /// Whether x, which is not split, fits the split that it meets along its dimension `dim`: it has one
  /// element for all, or one for each of all ranks, of which this rank's are to be cut.
  bool fits(const at::Tensor& x, int64_t dim, const SamplePlacement& split);
  /// The integer argument of this name, counted from the front of `dims` dimensions; none where it was left
  /// out.
  std::optional<int64_t> dim(std::string_view name, int64_t dims) const;
  /// The list of dimensions of this name, likewise.
  std::optional<std::vector<int64_t>> dim_list(std::string_view name, int64_t dims) const;
  /// What a convolution is given along dimension `dim` of its weight: one number for all, or for each; 0
  /// where it is a word ("same").
  int64_t along(std::string_view name, int64_t dim) const;
  /// The argument of this name; null where the operator has none.
  const c10::IValue* named(std::string_view name) const;
};

using Rule = Verdict (*)(Step&);

/// Where the split dimension goes in operators that move dimensions, told when they have run; null for any
/// other.
Rule rule_of_views(std::string_view name);
/// And in operators that compute or join, told before they run.
Rule rule_of_math(std::string_view name);
/// In operators that work on each element for itself.
Verdict elementwise(Step& step);

}  // namespace wanpar
