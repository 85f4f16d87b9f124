#pragma once
#include <wanpar/strategy/sequence_parallel.hpp>

#include "strategy/sequence_parallel/token_layout.hpp"

namespace wanpar {

/// The ranks that sequences are split over, ring × ulysses, and who holds which tokens.
class SequenceGroup {
 public:
  explicit SequenceGroup(const SequenceParallelOptions& options)
      : ulysses_(options.ulysses), ring_(options.ring), is_balanced_(options.balance_causal) {}

  int size() const { return ring_.size() * ulysses_.size(); }
  TokenLayout layout(int64_t total) const { return {total, ring_.size(), ulysses_.size(), is_balanced_}; }
  /// The tokens of this rank.
  Ranges mine(int64_t total) const { return layout(total).of(ring_.rank(), ulysses_.rank()); }

  /// Collective. The ranks' parts of `total` tokens, joined along dim.
  at::Tensor joined(const at::Tensor& part, int64_t dim, int64_t total) const;

  /// This rank's tokens of x, which is whole; its gradient is joined.
  at::Tensor share(const at::Tensor& x, int64_t dim) const;
  /// x, which every rank has alike, where it meets this rank's tokens only: its gradient is summed.
  at::Tensor with_summed_gradient(const at::Tensor& x) const;

  /// Collective. x summed over the ranks; its gradient likewise.
  at::Tensor summed(const at::Tensor& x) const;
  /// Collective. This rank's tokens x of `total` along dim, with the `left` ones before and the `right` ones
  /// behind them, zeros where the sequence has ended. Tokens must lie in order.
  at::Tensor with_neighbours(const at::Tensor& x, int64_t dim, int64_t total, int64_t left,
                             int64_t right) const;
  bool is_in_order() const { return !is_balanced_ || ring_.size() == 1; }

 private:
  at::Tensor sum(const at::Tensor& x) const;
  Communicator ulysses_, ring_;
  bool is_balanced_;
};

}  // namespace wanpar
