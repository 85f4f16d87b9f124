#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "module/split/split_facts.hpp"
#include "module/split/split_tensor.hpp"

namespace wanpar {

/// What an operator that ran on parts has given.
struct OutputPlacement {
  enum Kind {
    replicated,   ///< the same on every rank
    sharded,      ///< of the whole result, at `place`
    partial_sum,  ///< of the whole result, which is their sum
    partial_max,  ///< of the whole result, which is the greatest of them
  };
  Kind kind = replicated;
  std::optional<SplitPlacement> place = {};
};

/// One operator that has met split tensors, below autograd: its arguments as one rank would give them, and
/// what this rank gives to it in their place. A rule looks at the first, says the second by give*(), and
/// runs.
class SplitCall {
 public:
  using Geometry = SplitTensor::Geometry;

  SplitCall(const c10::OperatorHandle& op, const SplitFacts& facts, torch::jit::Stack& stack);

  const c10::OperatorHandle& op() const { return op_; }
  const SplitFacts& facts() const { return facts_; }
  const std::string& name() const { return op_.schema().name(); }
  const SplitGroup& group() const { return *group_; }

  // As one rank would give it.
  size_t size() const { return count_; }
  std::span<const c10::IValue> arguments() const { return {stack_.data() + first_, count_}; }
  const c10::IValue& argument(size_t i) const { return stack_[first_ + i]; }
  /// Where the schema has an argument of this name.
  std::optional<size_t> index(std::string_view name) const;
  /// The argument of this name; null where the operator has none.
  const c10::IValue* named(std::string_view name) const;
  /// The i-th argument where it is a tensor; undefined otherwise.
  const at::Tensor& tensor(size_t i) const;
  /// Null where that is no split tensor.
  const SplitPlacement* place(size_t i) const { return placement_of(tensor(i)); }
  /// Whether any is split: a copy of a view is not.
  bool has_parts() const;
  /// The first that is split.
  std::optional<size_t> first_split() const;
  /// The integer argument of this name, counted from the front of `dims` dimensions; none where it was left
  /// out.
  std::optional<int64_t> dim(std::string_view name, int64_t dims) const;
  /// The list of dimensions of this name, likewise.
  std::optional<std::vector<int64_t>> dims(std::string_view name, int64_t dims) const;

  // As this rank gives it.
  void give(size_t i, c10::IValue value) { here_[i] = std::move(value); }
  /// The part of the i-th argument, a tensor; none of those that are left as they are is split.
  void give_own_part(size_t i) { here_[i] = as_split(tensor(i))->part(); }
  void give_full(size_t i) { here_[i] = full_tensor(tensor(i)); }
  /// What of the i-th argument, a tensor, meets parts that lie like `place` (along its dimension place.dim):
  /// the part of it that lies likewise. Collective where it is split otherwise.
  void give_part(size_t i, const SplitPlacement& place);
  /// The same for one that may have a single element for all of them, or no such dimension (a negative one).
  /// False where it has neither that nor as many as the whole.
  bool give_broadcast(size_t i, const SplitPlacement& place);
  /// The part that a tensor has of parts that lie so.
  at::Tensor part(const at::Tensor& x, const SplitPlacement& place) const;

  /// Runs the operator as this rank gives it; each result is what `given` says, the last of those for all
  /// that follow.
  bool run(std::initializer_list<OutputPlacement> given);
  /// The same, with floating-point results times a factor.
  bool run_scaled(double factor, const OutputPlacement& given);
  /// What the operator gives as this rank gives it, with which to make the results.
  torch::jit::Stack ran() const;
  /// What it gives, by no elements along `dim`, for a first argument like `part` that has none there: an
  /// operator may refuse such a one, so it is asked for what it makes of `extent` zeros.
  torch::jit::Stack ran_for_none(const at::Tensor& part, int64_t dim, int64_t extent);
  /// The results are these.
  bool result(torch::jit::Stack results, std::initializer_list<OutputPlacement> given);
  /// The operator is a view of its first argument, and what it gives lies at these places.
  bool run_view(const std::vector<SplitPlacement>& places);
  /// What another of LibTorch's functions gave as a view of the first argument's part.
  bool result_view(const std::vector<at::Tensor>& parts, const std::vector<SplitPlacement>& places);

  /// The operator gives this view of the first argument's part, which lies so.
  bool result_view(at::Tensor part, const SplitPlacement& place, const Geometry& geometry);
  /// What is a view of the first argument, and lies at this place.
  at::Tensor view_of_first(at::Tensor part, const SplitPlacement& place, const Geometry& geometry) const;
  /// The operator is a view that no part holds; these are copies of what `op` gives for the arguments, the
  /// first of which is `base`.
  bool result_copy(const at::Tensor& base, const c10::OperatorHandle& op, std::vector<c10::IValue> arguments,
                   const std::vector<at::Tensor>& copies);

  /// Sizes, strides and offsets of what the operator gives on one rank, a view of its first argument.
  std::vector<Geometry> geometry() const;

  /// The operator on whole tensors, on every rank: right for whatever it does.
  void run_replicated();

 private:
  std::optional<Geometry> geometry_like(const SplitPlacement& place, const at::Tensor& part) const;
  at::Tensor combined(const at::Tensor& result, const OutputPlacement& given) const;
  void replace(torch::jit::Stack results);
  void replace_by_tensors(const std::vector<at::Tensor>& results);
  void wrote() const;
  void check_writes() const;

  const c10::OperatorHandle& op_;
  const SplitFacts& facts_;
  torch::jit::Stack& stack_;
  size_t count_, first_;
  std::shared_ptr<const SplitGroup> group_;
  c10::SmallVector<c10::IValue, 10> here_;
};

/// How an operator runs on parts. False, before anything was exchanged, where it cannot.
using SplitRule = bool (*)(SplitCall&);

}  // namespace wanpar
