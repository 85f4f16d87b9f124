#include "strategy/split/halo_layout.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace wanpar {
namespace {

at::Tensor indices(const std::vector<int64_t>& list, at::Device device) {
  return at::tensor(list, at::kLong).to(device);
}

at::Tensor zeros(const at::Tensor& like, int64_t dim, int64_t extent) {
  auto sizes = like.sizes().vec();
  sizes[dim] = extent;
  return at::zeros(sizes, like.options());
}

}  // namespace

HaloLayout::HaloLayout(const TokenLayout& layout, int ring, int ulysses, int ring_rank, int ulysses_rank,
                       int64_t left, int64_t right)
    : left_(left), right_(right) {
  rows_.assign(ring, 0);
  for (int r = 0; r < ring; ++r)
    for (int u = 0; u < ulysses; ++u) {
      Range share{total_, total_};
      for (auto& range : layout.of(r, u)) share.end += range.size();
      bool is_mine = r == ring_rank && u == ulysses_rank;
      if (is_mine) mine_ = share, begin_ = static_cast<int64_t>(all_.size());
      const auto known = all_.size();
      const auto head = std::min(share.end, share.begin + right), tail = std::max(head, share.end - left);
      for (auto token = share.begin; token < head; ++token) all_.push_back(token);
      for (auto token = tail; token < share.end; ++token) all_.push_back(token);
      if (is_mine)
        for (auto i = known; i < all_.size(); ++i) own_.push_back(all_[i] - share.begin);
      const auto count = static_cast<int64_t>(all_.size() - known);
      rows_[r] += count;
      if (r == ring_rank) row_.push_back(count);
      total_ = share.end;
    }
}

at::Tensor HaloLayout::own(at::Device device) const { return indices(own_, device); }

/// The positions of the existing tokens in [begin, end) among all boundary tokens.
std::vector<int64_t> HaloLayout::places(int64_t begin, int64_t end) const {
  std::vector<int64_t> result;
  for (auto token = std::max<int64_t>(0, begin); token < std::min(total_, end); ++token)
    result.push_back(std::lower_bound(all_.begin(), all_.end(), token) - all_.begin());
  return result;
}

at::Tensor HaloLayout::extended(const at::Tensor& part, const at::Tensor& all, int64_t dim) const {
  auto before = places(mine_.begin - left_, mine_.begin), behind = places(mine_.end, mine_.end + right_);
  auto left = left_ - static_cast<int64_t>(before.size()),
       right = right_ - static_cast<int64_t>(behind.size());
  return at::cat({zeros(part, dim, left), all.index_select(dim, indices(before, all.device())), part,
                  all.index_select(dim, indices(behind, all.device())), zeros(part, dim, right)},
                 dim);
}

at::Tensor HaloLayout::taken(const at::Tensor& extended, int64_t dim) const {
  auto before = places(mine_.begin - left_, mine_.begin), behind = places(mine_.end, mine_.end + right_);
  auto n = static_cast<int64_t>(before.size()), m = static_cast<int64_t>(behind.size());
  auto all = zeros(extended, dim, static_cast<int64_t>(all_.size()));
  all.index_add_(dim, indices(before, all.device()), extended.narrow(dim, left_ - n, n));
  return all.index_add_(dim, indices(behind, all.device()), extended.narrow(dim, left_ + length(), m));
}

at::Tensor HaloLayout::of_this_rank(const at::Tensor& all, int64_t dim) const {
  return all.narrow(dim, begin_, static_cast<int64_t>(own_.size()));
}

}  // namespace wanpar
