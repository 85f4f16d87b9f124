#pragma once
#include <wanpar/strategy/sequence_parallel.hpp>

#include <vector>

#include "strategy/sequence_parallel/token_layout.hpp"

namespace wanpar {

/// The ranks that sequences are split over, ring × ulysses. All but `mine` and `rank` that end in an exchange
/// are collective.
class SequenceGroup {
 public:
  explicit SequenceGroup(const SequenceParallelOptions& options)
      : ulysses_(options.ulysses), ring_(options.ring), is_balanced_(options.balance_causal) {}

  int size() const { return ring_.size() * ulysses_.size(); }
  int rank() const { return ring_.rank() * ulysses_.size() + ulysses_.rank(); }
  TokenLayout layout(int64_t total, Shares shares) const {
    return {total, ring_.size(), ulysses_.size(), is_balanced_, shares};
  }
  const Ranges& mine(const TokenLayout& layout) const { return layout.of(rank()); }

  /// The ranks' parts, joined along dim.
  at::Tensor joined(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const;
  /// This rank's tokens of x, which is whole: a copy, whose gradient is joined.
  at::Tensor share(const at::Tensor& x, int64_t dim, const TokenLayout& layout) const;
  /// The tokens of all ranks, as what every rank computes alike from here on: its gradient is whole on each,
  /// and this rank's part of it goes on.
  at::Tensor unsplit(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const;
  /// x, which every rank has alike, where it meets this rank's tokens only: its gradient is summed.
  at::Tensor with_summed_gradient(const at::Tensor& x) const;

  at::Tensor sum(const at::Tensor& x) const;
  at::Tensor greatest(const at::Tensor& x) const;
  /// x summed over the ranks, to be met by split tokens: its gradient is summed likewise.
  at::Tensor summed(const at::Tensor& x) const;
  /// x summed over the ranks, as what every rank computes alike from here on.
  at::Tensor total(const at::Tensor& x) const;
  /// This rank's tokens x with the `left` ones before and the `right` ones behind them, zeros where the
  /// sequence has ended. Tokens must lie in order.
  at::Tensor with_neighbours(const at::Tensor& x, int64_t dim, const TokenLayout& layout, int64_t left,
                             int64_t right) const;
  /// Each rank's numbers, as many on each.
  std::vector<std::vector<double>> rows(const std::vector<double>& mine) const;

 private:
  Communicator ulysses_, ring_;
  bool is_balanced_;
};

}  // namespace wanpar
