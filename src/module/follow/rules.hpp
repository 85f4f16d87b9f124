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

/// A replicated input with the global extent along `dim`: each rank must slice its own shard.
struct SlicedInput {
  size_t input;  // among the operator's
  int64_t dim;
  SamplePlacement like;
};

/// A split input that must be redistributed to the placement of the other inputs.
struct RedistributedInput {
  size_t input;
  SamplePlacement like;  // the required placement
};

/// A rule's result for an operator with a split input.
struct Verdict {
  std::optional<SamplePlacement> place = {};  ///< of the output; nullopt if that is not split
  std::string mixes = {};                     ///< why it needs elements of other ranks; empty if it does not

  bool is_local() const { return mixes.empty(); }
};

/// An operator with a split input, as seen by its rule.
struct Step {
  const Follow& follow;
  const Operator& op;
  at::DimVector sizes;                                 ///< of the first argument, before the operator ran
  std::span<const at::Tensor> outputs;                 ///< empty before it ran
  std::vector<SlicedInput> slices = {};                ///< inputs that must be sliced
  std::vector<RedistributedInput> redistributed = {};  ///< inputs that must be redistributed

  const c10::IValue& argument(size_t i) const { return op.arguments[i]; }
  /// The i-th argument if it is a tensor; undefined otherwise.
  const at::Tensor& tensor(size_t i) const;
  /// The number of dimensions of the first argument.
  int64_t dims() const { return static_cast<int64_t>(sizes.size()); }
  /// The placement of the i-th argument; null if that is not a split tensor.
  const SamplePlacement* place(size_t i) const;
  /// Whether the replicated x broadcasts along `dim` against `split`: its extent is 1, or the global extent,
  /// of which this rank's shard must be sliced.
  bool fits(const at::Tensor& x, int64_t dim, const SamplePlacement& split);
  /// The dimension argument of this name, wrapped to `dims` dimensions; nullopt if it was omitted.
  std::optional<int64_t> dim(std::string_view name, int64_t dims) const;
  /// The dimension-list argument of this name, likewise.
  std::optional<std::vector<int64_t>> dim_list(std::string_view name, int64_t dims) const;
  /// A convolution's argument (stride, padding, dilation) along dimension `dim` of its weight; 0 if it is a
  /// string ("same").
  int64_t along(std::string_view name, int64_t dim) const;
  /// The argument of this name; null if the operator has none.
  const c10::IValue* named(std::string_view name) const;
};

using Rule = Verdict (*)(Step&);

/// The rule of an operator that moves dimensions, applied after it ran; null for any other.
Rule rule_of_views(std::string_view name);
/// The rule of an operator that computes or concatenates, applied before it runs; null for any other.
Rule rule_of_math(std::string_view name);
/// The rule of elementwise operators.
Verdict elementwise(Step& step);

}  // namespace wanpar
