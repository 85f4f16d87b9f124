#include "module/split/token_layout.hpp"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <numeric>
#include <utility>
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

/// Merges adjacent ranges.
Ranges tidy(const Ranges& ranges) {
  Ranges result;
  for (auto& range : ranges) {
    if (range.size() == 0) continue;
    if (!result.empty() && result.back().end == range.begin)
      result.back().end = range.end;
    else
      result.push_back(range);
  }
  if (result.empty()) result.push_back({0, 0});
  return result;
}

/// The tokens at positions [begin, end) of what a group holds.
Ranges part_of(const Ranges& group, const Range& part) {
  Ranges ranges;
  int64_t begin = 0;  // position of this range among the group's tokens
  for (auto& range : group) {
    auto from = std::max(part.begin, begin), to = std::min(part.end, begin + range.size());
    if (from < to) ranges.push_back({range.begin + from - begin, range.begin + to - begin});
    begin += range.size();
  }
  return tidy(ranges);
}

}  // namespace

int64_t length(const Ranges& ranges) {
  return std::accumulate(ranges.begin(), ranges.end(), int64_t{0},
                         [](int64_t n, const Range& range) { return n + range.size(); });
}

at::Tensor select_ranges(const at::Tensor& x, int64_t dim, const Ranges& ranges) {
  if (ranges.size() == 1) return x.narrow(dim, ranges[0].begin, ranges[0].size());
  std::vector<at::Tensor> parts;
  for (auto& range : ranges) parts.push_back(x.narrow(dim, range.begin, range.size()));
  return at::cat(parts, dim);
}

TokenLayout::TokenLayout(int64_t total, int ring, int ulysses, bool balanced)
    : total_(total), ulysses_(ulysses) {
  if (!balanced || ring == 1) {
    for (auto& range : consecutive(even_sizes(total, ring * ulysses))) ranks_.push_back({range});
    return;
  }
  auto parts = consecutive(even_sizes(total, 2 * ring));
  for (int r = 0; r < ring; ++r) {
    const Ranges group{parts[r], parts[2 * ring - 1 - r]};
    for (auto& mine : consecutive(even_sizes(length(group), ulysses))) ranks_.push_back(part_of(group, mine));
  }
}

TokenLayout::TokenLayout(std::vector<Ranges> ranks, int ulysses) : ulysses_(ulysses) {
  for (auto& ranges : ranks) {
    total_ += length(ranges);
    ranks_.push_back(tidy(ranges));
  }
}

std::vector<Ranges> TokenLayout::groups() const {
  std::vector<Ranges> groups;
  for (size_t first = 0; first < ranks_.size(); first += ulysses_) {
    Ranges group;
    for (int u = 0; u < ulysses_; ++u)
      group.insert(group.end(), ranks_[first + u].begin(), ranks_[first + u].end());
    groups.push_back(tidy(group));
  }
  return groups;
}

std::vector<int64_t> TokenLayout::lengths() const {
  std::vector<int64_t> lengths;
  for (auto& tokens : ranks_) lengths.push_back(length(tokens));
  return lengths;
}

std::vector<int64_t> TokenLayout::lengths(int ring_rank) const {
  std::vector<int64_t> lengths;
  for (int u = 0; u < ulysses_; ++u) lengths.push_back(length(of(ring_rank, u)));
  return lengths;
}

Ranges TokenLayout::in_sequence() const {
  Ranges all;
  for (auto& ranges : ranks_) all.insert(all.end(), ranges.begin(), ranges.end());
  return tidy(all);
}

bool TokenLayout::is_in_order() const { return in_sequence().size() == 1; }

at::Tensor TokenLayout::in_order(const at::Tensor& x, int64_t dim) const {
  std::vector<std::pair<Range, int64_t>> places;  // the position of each range in x
  int64_t at = 0;
  for (auto& range : in_sequence()) {
    places.emplace_back(range, at);
    at += range.size();
  }
  if (places.size() == 1) return x;
  std::sort(places.begin(), places.end(), [](auto& a, auto& b) { return a.first.begin < b.first.begin; });
  std::vector<at::Tensor> parts;
  for (auto& [range, begin] : places) parts.push_back(x.narrow(dim, begin, range.size()));
  return at::cat(parts, dim);
}

at::Tensor TokenLayout::by_rank(const at::Tensor& x, int64_t dim) const {
  return select_ranges(x, dim, in_sequence());
}

TokenLayout TokenLayout::merged(int64_t before, int64_t after) const {
  TokenLayout result;
  result.total_ = before * total_ * after;
  result.ulysses_ = ulysses_;
  for (auto& ranges : ranks_) {
    Ranges all;
    for (int64_t b = 0; b < before; ++b)
      for (auto& range : ranges)
        all.push_back({(b * total_ + range.begin) * after, (b * total_ + range.end) * after});
    result.ranks_.push_back(tidy(all));
  }
  return result;
}

TokenLayout TokenLayout::joined(const std::vector<TokenLayout>& parts) {
  TokenLayout result;
  result.ulysses_ = parts.front().ulysses_;
  result.ranks_.resize(parts.front().ranks_.size());
  for (auto& part : parts) {
    for (size_t r = 0; r < result.ranks_.size(); ++r)
      for (auto& range : part.ranks_[r])
        result.ranks_[r].push_back({range.begin + result.total_, range.end + result.total_});
    result.total_ += part.total_;
  }
  for (auto& ranges : result.ranks_) ranges = tidy(ranges);
  return result;
}

TokenLayout TokenLayout::with_lengths(const std::vector<int64_t>& lengths) const {
  TokenLayout result;
  result.ulysses_ = ulysses_;
  for (auto& range : consecutive(lengths)) {
    result.ranks_.push_back({range});
    result.total_ = range.end;
  }
  return result;
}

TokenLayout TokenLayout::part(int64_t begin, int64_t end) const {
  TokenLayout result;
  result.total_ = end - begin;
  result.ulysses_ = ulysses_;
  for (auto& ranges : ranks_) {
    Ranges here;
    for (auto& range : ranges) {
      auto from = std::max(range.begin, begin), to = std::min(range.end, end);
      if (from < to) here.push_back({from - begin, to - begin});
    }
    result.ranks_.push_back(tidy(here));
  }
  return result;
}

}  // namespace wanpar
