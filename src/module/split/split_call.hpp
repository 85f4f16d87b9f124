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

/// The placement of the output of an operator that ran on shards.
struct OutputPlacement {
  enum Kind {
    replicated,   ///< the same on every rank
    sharded,      ///< a shard, with placement `place`
    partial_sum,  ///< to be summed over the ranks
    partial_max,  ///< to be reduced by max over the ranks
  };
  Kind kind = replicated;
  std::optional<SplitPlacement> place = {};
};

/// One call of an operator on split tensors, below autograd: its global arguments, and the local ones that
/// this rank passes instead. A rule inspects the global arguments, sets the local ones by give*(), and runs
/// the operator.
class SplitCall {
 public:
  using Geometry = SplitTensor::Geometry;

  SplitCall(const c10::OperatorHandle& op, const SplitFacts& facts, torch::jit::Stack& stack);

  const c10::OperatorHandle& op() const { return op_; }
  const SplitFacts& facts() const { return facts_; }
  const std::string& name() const { return op_.schema().name(); }
  const SplitGroup& group() const { return *group_; }

  // The global arguments.
  size_t size() const { return count_; }
  std::span<const c10::IValue> arguments() const { return {stack_.data() + first_, count_}; }
  const c10::IValue& argument(size_t i) const { return stack_[first_ + i]; }
  /// The index of the argument of this name.
  std::optional<size_t> index(std::string_view name) const;
  /// The argument of this name; null if the operator has none.
  const c10::IValue* named(std::string_view name) const;
  /// The i-th argument if it is a tensor; undefined otherwise.
  const at::Tensor& tensor(size_t i) const;
  /// The placement of the i-th argument; null if it is not sharded.
  const SplitPlacement* place(size_t i) const { return placement_of(tensor(i)); }
  /// Whether any argument is sharded; a copy that stands for a view is not.
  bool has_parts() const;
  /// The first argument that is sharded.
  std::optional<size_t> first_split() const;
  /// The dimension argument of this name, wrapped to `dims` dimensions; nullopt if it was omitted.
  std::optional<int64_t> dim(std::string_view name, int64_t dims) const;
  /// The dimension-list argument of this name, likewise.
  std::optional<std::vector<int64_t>> dims(std::string_view name, int64_t dims) const;

  // The local arguments; those that are not set are passed as they are, and must not be split tensors.
  void give(size_t i, c10::IValue value) { here_[i] = std::move(value); }
  /// Passes this rank's shard of the i-th argument.
  void give_own_part(size_t i) { here_[i] = as_split(tensor(i))->part(); }
  void give_full(size_t i) { here_[i] = full_tensor(tensor(i)); }
  /// Passes the shard of the i-th argument with placement `place` (along its dimension place.dim). Collective
  /// if it is sharded differently, and must be redistributed.
  void give_part(size_t i, const SplitPlacement& place);
  /// As give_part, for an argument that may broadcast: with extent 1, or without this dimension (a negative
  /// one). False if its extent is neither 1 nor the global extent.
  bool give_broadcast(size_t i, const SplitPlacement& place);
  /// This rank's shard of a tensor with placement `place`.
  at::Tensor part(const at::Tensor& x, const SplitPlacement& place) const;

  /// Runs the operator on the local arguments; `given` are the placements of its outputs, the last one for
  /// all that follow.
  bool run(std::initializer_list<OutputPlacement> given);
  /// As run(), and scales floating-point outputs by a factor.
  bool run_scaled(double factor, const OutputPlacement& given);
  /// Runs the operator on the local arguments, and returns its outputs for result().
  torch::jit::Stack ran() const;
  /// The outputs, empty along `dim`, for a first argument like `part` that is empty there: as the operator
  /// may reject empty tensors, it runs on `extent` zeros.
  torch::jit::Stack ran_for_none(const at::Tensor& part, int64_t dim, int64_t extent);
  /// Sets the outputs of the call, with these placements.
  bool result(torch::jit::Stack results, std::initializer_list<OutputPlacement> given);
  /// Runs a view operator on the first argument's shard; `places` are the placements of its outputs.
  bool run_view(const std::vector<SplitPlacement>& places);
  /// Sets the outputs to views of the first argument's shard that another function has made.
  bool result_view(const std::vector<at::Tensor>& parts, const std::vector<SplitPlacement>& places);

  /// Sets the output to this view of the first argument's shard, with this global geometry.
  bool result_view(at::Tensor part, const SplitPlacement& place, const Geometry& geometry);
  /// A split tensor that is a view of the first argument.
  at::Tensor view_of_first(at::Tensor part, const SplitPlacement& place, const Geometry& geometry) const;
  /// For a view that no shard holds: sets the outputs to copies that stand for the views that `op` makes of
  /// `arguments`, the first of which is `base`.
  bool result_copy(const at::Tensor& base, const c10::OperatorHandle& op, std::vector<c10::IValue> arguments,
                   const std::vector<at::Tensor>& copies);

  /// Global sizes, strides and offsets of the outputs of a view operator.
  std::vector<Geometry> geometry() const;

  /// Runs the operator on full tensors, on every rank: correct for any operator.
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

/// A sharding rule: runs an operator on shards. Returns false, before any communication, if it cannot.
using SplitRule = bool (*)(SplitCall&);

}  // namespace wanpar
