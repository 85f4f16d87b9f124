#include "strategy/sequence_parallel/token_layout.hpp"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <numeric>
#include <wanpar/core/communicator.hpp>

#include "core/arguments.hpp"

namespace wanpar {
namespace {

std::vector<Range> consecutive(const std::vector<int64_t>& sizes) {
  std::vector<Range> ranges;
  int64_t begin = 0;
  for (auto size : sizes) {
    ranges.push_back({begin, begin + size});
    begin += size;
  }
  return ranges;
}

}  // namespace

int64_t length(const Ranges& ranges) {
  return std::accumulate(ranges.begin(), ranges.end(), int64_t{0},
                         [](int64_t n, const Range& range) { return n + range.size(); });
}

at::Tensor take(const at::Tensor& x, int64_t dim, const Ranges& ranges) {
  if (ranges.size() == 1) return x.narrow(dim, ranges[0].begin, ranges[0].size());
  std::vector<at::Tensor> parts;
  for (auto& range : ranges) parts.push_back(x.narrow(dim, range.begin, range.size()));
  return at::cat(parts, dim);
}

TokenLayout::TokenLayout(int64_t total, int ring, int ulysses, bool balanced) {
  if (balanced && ring > 1) {
    auto parts = consecutive(even_sizes(total, 2 * ring));
    for (int r = 0; r < ring; ++r) {
      groups_.push_back({parts[r], parts[2 * ring - 1 - r]});
      lengths_.push_back(even_sizes(length(groups_[r]), ulysses));
    }
    return;
  }
  auto shares = even_sizes(total, ring * ulysses);
  for (int r = 0; r < ring; ++r) {
    auto first = shares.begin() + r * ulysses;
    lengths_.push_back({first, first + ulysses});
  }
  std::vector<int64_t> sizes;
  for (auto& lengths : lengths_) sizes.push_back(wanpar::total(lengths));
  for (auto& range : consecutive(sizes)) groups_.push_back({range});
}

bool TokenLayout::has_single() const {
  return std::any_of(lengths_.begin(), lengths_.end(),
                     [](auto& lengths) { return std::count(lengths.begin(), lengths.end(), 1); });
}

Ranges TokenLayout::of(int ring_rank, int ulysses_rank) const {
  auto mine = consecutive(lengths_[ring_rank])[ulysses_rank];
  Ranges ranges;
  int64_t begin = 0;  // of this range among the group's tokens
  for (auto& range : groups_[ring_rank]) {
    auto from = std::max(mine.begin, begin), to = std::min(mine.end, begin + range.size());
    if (from < to) ranges.push_back({range.begin + from - begin, range.begin + to - begin});
    begin += range.size();
  }
  if (ranges.empty()) ranges.push_back({0, 0});
  return ranges;
}

at::Tensor TokenLayout::in_order(const at::Tensor& x, int64_t dim) const {
  std::vector<std::pair<Range, int64_t>> places;  // where each range stands in x
  int64_t at = 0;
  for (auto& group : groups_)
    for (auto& range : group) {
      places.emplace_back(range, at);
      at += range.size();
    }
  auto earlier = [](auto& a, auto& b) { return a.first.begin < b.first.begin; };
  if (std::is_sorted(places.begin(), places.end(), earlier)) return x;
  std::stable_sort(places.begin(), places.end(), earlier);
  std::vector<at::Tensor> parts;
  for (auto& [range, begin] : places) parts.push_back(x.narrow(dim, begin, range.size()));
  return at::cat(parts, dim);
}

}  // namespace wanpar
