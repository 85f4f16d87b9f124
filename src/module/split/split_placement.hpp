#pragma once
#include <algorithm>
#include <memory>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// The placement of a split tensor: sharded along `dim`, whose local extent is before · length · after (1 ·
/// length · 1 unless the dimension was merged with others, by reshape).
struct SplitPlacement {
  std::shared_ptr<const TokenLayout> layout;
  int rank;  ///< this rank, in the layout
  int64_t dim;
  int64_t before = 1, after = 1;

  int64_t length() const { return wanpar::length(layout->of(rank)); }
  int64_t total() const { return layout->total(); }
  int64_t extent() const { return before * length() * after; }
  int64_t global_extent() const { return before * total() * after; }
  bool is_merged() const { return before * after != 1; }
  /// The layout of all elements along the dimension, including merged ones.
  TokenLayout elements() const { return is_merged() ? layout->merged(before, after) : *layout; }
  SplitPlacement at(int64_t other_dim) const {
    auto moved = *this;
    moved.dim = other_dim;
    return moved;
  }
  /// The slice of tokens [begin, end), which is contiguous on each rank.
  struct Part;
  Part part(int64_t begin, int64_t end) const;
  /// Whether the same elements are on the same ranks, along any dimension.
  bool is_like(const SplitPlacement& other) const {
    return before == other.before && after == other.after &&
           (layout == other.layout || *layout == *other.layout);
  }
};

struct SplitPlacement::Part {
  SplitPlacement place;
  int64_t first, count;  ///< the range of the slice in this rank's shard
};

inline SplitPlacement::Part SplitPlacement::part(int64_t begin, int64_t end) const {
  Part part{*this, 0, 0};
  part.place.layout = std::make_shared<TokenLayout>(layout->part(begin, end));
  for (auto& range : layout->of(rank)) {
    part.first += std::max<int64_t>(0, std::min(range.end, begin) - range.begin);
    part.count += std::max<int64_t>(0, std::min(range.end, end) - std::max(range.begin, begin));
  }
  return part;
}

}  // namespace wanpar
