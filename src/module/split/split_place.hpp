#pragma once
#include <algorithm>
#include <memory>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Where a rank's elements of a split dimension lie in a tensor: along `dim`, whose extent is before · length
/// · after (1 · length · 1 unless the dimension was merged with others).
struct SplitPlacement {
  std::shared_ptr<const TokenLayout> layout;
  int rank;  ///< which of the layout's it is
  int64_t dim;
  int64_t before = 1, after = 1;

  int64_t length() const { return wanpar::length(layout->of(rank)); }
  int64_t total() const { return layout->total(); }
  int64_t extent() const { return before * length() * after; }
  int64_t global_extent() const { return before * total() * after; }
  bool is_merged() const { return before * after != 1; }
  /// Of all elements along the dimension, merged ones included.
  TokenLayout elements() const { return is_merged() ? layout->merged(before, after) : *layout; }
  SplitPlacement at(int64_t other_dim) const {
    auto moved = *this;
    moved.dim = other_dim;
    return moved;
  }
  /// The tokens [begin, end), which lie side by side on each rank that has several of them.
  struct Part;
  Part part(int64_t begin, int64_t end) const;
  /// Whether the same elements lie on the same ranks, along whatever dimension.
  bool is_like(const SplitPlacement& other) const {
    return before == other.before && after == other.after &&
           (layout == other.layout || *layout == *other.layout);
  }
};

struct SplitPlacement::Part {
  SplitPlacement place;
  int64_t first, count;  ///< where they are among this rank's, and how many
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
