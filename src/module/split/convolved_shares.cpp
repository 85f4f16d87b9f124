#include "module/split/convolved_shares.hpp"

#include <algorithm>

namespace wanpar {

ConvolvedShares convolved_shares(const Convolved& c, const TokenLayout& layout) {
  ConvolvedShares shares;
  const auto lost = std::max<int64_t>(0, layout.total() - c.results);
  int64_t begin = 0, first = 0;  // of this rank's tokens, and of its results
  std::vector<int64_t> before, behind, needed;
  for (int r = 0; r < layout.size(); ++r) {
    const auto end = begin + length(layout.of(r));
    const bool is_last = r + 1 == layout.size();
    const auto last = is_last ? c.results : std::max(first, std::min(c.results, end - lost));
    const auto from = first - c.padding, to = last - c.padding + (last > first ? c.reach : 0);
    before.push_back(begin - from), behind.push_back(to - end);
    needed.push_back(std::max<int64_t>(0, to - from));
    shares.lengths.push_back(last - first);
    begin = end, first = last;
  }
  shares.left = std::max<int64_t>(0, *std::max_element(before.begin(), before.end()));
  shares.right = std::max<int64_t>(0, *std::max_element(behind.begin(), behind.end()));
  for (size_t r = 0; r < before.size(); ++r) shares.of_rank.push_back({shares.left - before[r], needed[r]});
  return shares;
}

}  // namespace wanpar
