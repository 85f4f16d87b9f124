#pragma once
#include <optional>

#include "module/split/convolved_shares.hpp"
#include "module/split/split_group.hpp"
#include "module/split/split_place.hpp"

namespace wanpar {

/// A split dimension along which an operator looks at several tokens for each of its results.
class AlongTokens {
 public:
  AlongTokens(SplitPlacement place, const Convolved& convolved);

  /// Where the results lie.
  const SplitPlacement& result() const { return result_; }
  const ConvolvedShares& shares() const { return shares_; }
  const ConvolvedShares::Share& mine() const { return shares_.of_rank[place_.rank]; }
  bool has_results() const { return shares_.lengths[place_.rank] > 0; }
  /// Which token the first one that this rank's results look at is; in front of the sequence a negative one.
  int64_t first() const { return begin_ - shares_.left + mine().skipped; }

  /// Collective. This rank's tokens, and what of its neighbours' the results take; beyond the sequence there
  /// is `beyond`.
  at::Tensor with_halo(const SplitGroup& group, const at::Tensor& part, double beyond = 0) const;
  /// The same; beyond the sequence its first and last token go on.
  at::Tensor with_halo_replicate_padded(const SplitGroup& group, const at::Tensor& part) const;

 private:
  at::Tensor extended(const SplitGroup& group, const at::Tensor& part) const;
  int64_t beyond_left() const;
  int64_t beyond_right() const;

  SplitPlacement place_, result_;
  ConvolvedShares shares_;
  int64_t begin_ = 0;  // of this rank's tokens
};

/// Where tokens follow each other over the ranks, one by one.
std::optional<AlongTokens> along_tokens(const SplitPlacement& place, const Convolved& convolved);

}  // namespace wanpar
