#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace wanpar {

/// Tokens [begin, end) of the whole sequence.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

/// What one rank holds, in this order.
using Ranges = std::vector<Range>;

int64_t length(const Ranges& ranges);

/// These ranges of x along dim, joined.
at::Tensor take(const at::Tensor& x, int64_t dim, const Ranges& ranges);

/// Which tokens each of ring × ulysses ranks holds, as evenly as whole numbers allow, empty shares included.
///
/// In order: the ranks' shares follow each other, ulysses fastest. Balanced: each rank of the ring gets one
/// range from the front and its mirror image from the back, so that causal attention costs all of them alike:
///
///     ring of 3      0 0 1 1 2 2 2 2 1 1 0 0
class TokenLayout {
 public:
  TokenLayout(int64_t total, int ring, int ulysses, bool balanced);

  /// What the ulysses group at each place of the ring holds together.
  const std::vector<Ranges>& groups() const { return groups_; }
  /// How many tokens each rank of one ulysses group holds.
  const std::vector<int64_t>& lengths(int ring_rank) const { return lengths_[ring_rank]; }
  /// Whether some rank holds one token, no more.
  bool has_single() const;
  /// What one rank holds.
  Ranges of(int ring_rank, int ulysses_rank) const;
  /// The groups' tokens, joined along dim in the order of the ring, put into the order of the sequence.
  at::Tensor in_order(const at::Tensor& x, int64_t dim) const;

 private:
  std::vector<Ranges> groups_;
  std::vector<std::vector<int64_t>> lengths_;
};

}  // namespace wanpar
