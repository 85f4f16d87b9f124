#pragma once
#include <optional>

#include "module/split/convolved_shares.hpp"
#include "module/split/split_group.hpp"
#include "module/split/split_placement.hpp"

namespace wanpar {

/// A sharded token dimension along which an operator (a convolution, a pool) needs halos.
class AlongTokens {
 public:
  AlongTokens(SplitPlacement place, const Convolved& convolved);

  /// The placement of the results.
  const SplitPlacement& result() const { return result_; }
  const ConvolvedShares& shares() const { return shares_; }
  const ConvolvedShares::Share& mine() const { return shares_.of_rank[place_.rank]; }
  bool has_results() const { return shares_.lengths[place_.rank] > 0; }
  /// The first token that this rank's results depend on; negative in the padding before the sequence.
  int64_t first() const { return begin_ - shares_.left + mine().skipped; }

  /// Collective. This rank's tokens with the halo that its results need; `beyond` pads beyond the sequence.
  at::Tensor with_halo(const SplitGroup& group, const at::Tensor& part, double beyond = 0) const;
  /// As above, but replicates the first and the last token beyond the sequence.
  at::Tensor with_halo_replicate_padded(const SplitGroup& group, const at::Tensor& part) const;

 private:
  at::Tensor extended(const SplitGroup& group, const at::Tensor& part) const;
  int64_t beyond_left() const;
  int64_t beyond_right() const;

  SplitPlacement place_, result_;
  ConvolvedShares shares_;
  int64_t begin_ = 0;  // of this rank's tokens
};

/// nullopt unless the tokens are unmerged and lie in order over the ranks.
std::optional<AlongTokens> along_tokens(const SplitPlacement& place, const Convolved& convolved);

}  // namespace wanpar
