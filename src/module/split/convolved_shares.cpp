#include "module/split/convolved_shares.hpp"

#include <algorithm>

namespace wanpar {
namespace {

int64_t rounded_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace

ConvolvedShares convolved_shares(const Convolved& c, const TokenLayout& layout) {
  ConvolvedShares shares;
  // A rank computes the windows that start at its tokens. Results that the ends of the sequence cost are
  // taken from the front, where causal windows are padded, but with a stride from the back, where those are
  // padded.
  const auto all = rounded_up(layout.total(), c.stride);
  const auto lost = c.stride == 1 ? std::max<int64_t>(0, all - c.results) : 0;
  int64_t begin = 0, first = 0;  // of this rank's tokens, and of its results
  struct Reach {
    int64_t before, needed;
  };
  std::vector<Reach> reaches;
  for (int r = 0; r < layout.size(); ++r) {
    const auto end = begin + length(layout.of(r));
    const bool is_last = r + 1 == layout.size();
    const auto last =
        is_last ? c.results : std::max(first, std::min(c.results, rounded_up(end, c.stride) - lost));
    if (last > first) {
      const auto from = first * c.stride - c.padding, to = (last - 1) * c.stride - c.padding + c.reach + 1;
      reaches.push_back({begin - from, to - from});
      shares.left = std::max(shares.left, begin - from);
      shares.right = std::max(shares.right, to - end);
    } else {
      reaches.push_back({0, 0});
    }
    shares.lengths.push_back(last - first);
    begin = end, first = last;
  }
  for (auto& [before, needed] : reaches)
    shares.of_rank.push_back({needed > 0 ? shares.left - before : 0, needed});
  return shares;
}

}  // namespace wanpar
