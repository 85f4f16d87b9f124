#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace wanpar {

/// Tokens [begin, end) of the whole sequence.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// What one rank holds, in this order.
using Ranges = std::vector<Range>;

int64_t length(const Ranges& ranges);

/// These ranges of x along dim, joined.
at::Tensor select_ranges(const at::Tensor& x, int64_t dim, const Ranges& ranges);

/// Which tokens each rank holds, empty shares included.
///
/// In order: the ranks' shares follow each other. Balanced: each rank of the ring gets one range from the
/// front and its mirror image from the back, so that causal attention costs all of them alike:
///
///     ring of 3      0 0 1 1 2 2 2 2 1 1 0 0
class TokenLayout {
 public:
  TokenLayout(int64_t total, int ring, int ulysses, bool balanced);
  /// What each rank holds, said outright; together they hold every token once.
  TokenLayout(std::vector<Ranges> ranks, int ulysses);

  int64_t total() const { return total_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  /// What one rank holds.
  const Ranges& of(int ring_rank, int ulysses_rank) const {
    return ranks_[ring_rank * ulysses_ + ulysses_rank];
  }
  const Ranges& of(int rank) const { return ranks_[rank]; }
  /// What the ulysses group at each place of the ring holds together.
  std::vector<Ranges> groups() const;
  /// How many tokens each rank holds.
  std::vector<int64_t> lengths() const;
  /// And each rank of one ulysses group.
  std::vector<int64_t> lengths(int ring_rank) const;
  /// Whether each rank's share follows that of the rank before it.
  bool is_in_order() const;
  /// The ranks' tokens, joined along dim in their order, put into the order of the sequence.
  at::Tensor in_order(const at::Tensor& x, int64_t dim) const;
  /// The inverse: the tokens of the sequence by rank.
  at::Tensor by_rank(const at::Tensor& x, int64_t dim) const;

  /// Each token merged with others: `before` times all of them, each `after` long.
  TokenLayout merged(int64_t before, int64_t after) const;
  /// Several sequences joined one behind the other, each rank holding its tokens of all of them.
  static TokenLayout joined(const std::vector<TokenLayout>& parts);
  /// Shares that follow each other, of these lengths.
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
