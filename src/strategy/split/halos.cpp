#include "strategy/split/halos.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace wanpar {
namespace {

Range common(const Range& a, const Range& b) {
  const auto begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

}  // namespace

at::Tensor with_halos(const Communicator& ranks, const at::Tensor& part, int64_t dim,
                      const TokenLayout& layout, int64_t left, int64_t right) {
  std::vector<Range> shares;
  int64_t total = 0;
  for (const auto length : layout.lengths()) shares.push_back({total, total + length}), total += length;
  const auto of = [&](int64_t tokens) {
    auto shape = part.sizes().vec();
    shape[dim] = tokens;
    return shape;
  };
  const auto& mine = shares[ranks.rank()];

  std::vector<Send> sends;
  std::vector<Receive> receives;
  size_t before = 0;  // number of received pieces that come before
  for (int peer = 0; peer < ranks.size(); ++peer) {
    if (peer == ranks.rank()) continue;
    const auto& theirs = shares[peer];
    const bool is_before = peer < ranks.rank();
    // A rank before this one needs its right halo from here, and provides the left halo.
    const auto goes = common(
        mine, is_before ? Range{theirs.end, theirs.end + right} : Range{theirs.begin - left, theirs.begin});
    const auto comes =
        common(theirs, is_before ? Range{mine.begin - left, mine.begin} : Range{mine.end, mine.end + right});
    if (goes.size() > 0) sends.push_back({part.narrow(dim, goes.begin - mine.begin, goes.size()), peer});
    if (comes.size() == 0) continue;
    receives.push_back({of(comes.size()), part.options(), peer});
    before += is_before;
  }
  auto come = ranks.exchange(std::move(sends), std::move(receives)).get();

  come.insert(come.begin() + static_cast<ptrdiff_t>(before), part);
  come.insert(come.begin(), at::zeros(of(std::max<int64_t>(0, left - mine.begin)), part.options()));
  come.push_back(at::zeros(of(std::max<int64_t>(0, mine.end + right - total)), part.options()));
  return at::cat(come, dim);
}

}  // namespace wanpar
