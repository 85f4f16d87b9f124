#pragma once
#include <memory>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Where a rank's elements of a split dimension lie in a tensor: along `dim`, whose extent is before · length
/// · after (1 · length · 1 unless the dimension was merged with others).
struct SplitPlace {
  std::shared_ptr<const TokenLayout> layout;
  int rank;  ///< which of the layout's it is
  int64_t dim;
  int64_t before = 1, after = 1;

  int64_t length() const { return wanpar::length(layout->of(rank)); }
  int64_t total() const { return layout->total(); }
  int64_t extent() const { return before * length() * after; }
  int64_t whole_extent() const { return before * total() * after; }
  bool is_merged() const { return before * after != 1; }
  /// Of all elements along the dimension, merged ones included.
  TokenLayout elements() const { return is_merged() ? layout->merged(before, after) : *layout; }
  SplitPlace at(int64_t other_dim) const {
    auto moved = *this;
    moved.dim = other_dim;
    return moved;
  }
  /// Whether the same elements lie on the same ranks, along whatever dimension.
  bool is_like(const SplitPlace& other) const {
    return before == other.before && after == other.after &&
           (layout == other.layout || *layout == *other.layout);
  }
};

}  // namespace wanpar
