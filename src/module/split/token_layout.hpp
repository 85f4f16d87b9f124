#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace wanpar {

/// Tokens [begin, end) of the sequence.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// The tokens of one rank, in this order.
using Ranges = std::vector<Range>;

int64_t length(const Ranges& ranges);

/// Slices these ranges of x along dim, and concatenates them.
at::Tensor select_ranges(const at::Tensor& x, int64_t dim, const Ranges& ranges);

/// The tokens of each rank; shards may be empty.
///
/// In order: shards follow each other in rank order. Balanced (zigzag): each rank of the ring gets one range
/// from the front and its mirror image from the back, which balances causal attention:
///
///     ring of 3      0 0 1 1 2 2 2 2 1 1 0 0
class TokenLayout {
 public:
  TokenLayout(int64_t total, int ring, int ulysses, bool balanced);
  /// The tokens of each rank given explicitly; together they hold every token once.
  TokenLayout(std::vector<Ranges> ranks, int ulysses);

  int64_t total() const { return total_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  /// The tokens of one rank.
  const Ranges& of(int ring_rank, int ulysses_rank) const {
    return ranks_[ring_rank * ulysses_ + ulysses_rank];
  }
  const Ranges& of(int rank) const { return ranks_[rank]; }
  /// The tokens of each ulysses group, by ring rank.
  std::vector<Ranges> groups() const;
  /// The number of tokens of each rank.
  std::vector<int64_t> lengths() const;
  /// The number of tokens of each rank of one ulysses group.
  std::vector<int64_t> lengths(int ring_rank) const;
  /// Whether each rank's shard follows that of the previous rank.
  bool is_in_order() const;
  /// Reorders gathered shards, concatenated along dim in rank order, into the order of the sequence.
  at::Tensor in_order(const at::Tensor& x, int64_t dim) const;
  /// The inverse of in_order: from the order of the sequence to rank order.
  at::Tensor by_rank(const at::Tensor& x, int64_t dim) const;

  /// The layout after merging dimensions: `before` repetitions of all tokens, each token `after` elements
  /// long.
  TokenLayout merged(int64_t before, int64_t after) const;
  /// The layout of concatenated sequences: each rank holds its tokens of all of them.
  static TokenLayout joined(const std::vector<TokenLayout>& parts);
  /// Shards in order, of these lengths.
  TokenLayout with_lengths(const std::vector<int64_t>& lengths) const;
  /// The tokens [begin, end) as a sequence of their own.
  TokenLayout part(int64_t begin, int64_t end) const;

  bool operator==(const TokenLayout&) const = default;

 private:
  TokenLayout() = default;
  Ranges in_sequence() const;

  int64_t total_ = 0;
  int ulysses_ = 1;
  std::vector<Ranges> ranks_;
};

}  // namespace wanpar
