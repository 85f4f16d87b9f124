#include "module/split/along_tokens.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace wanpar {

AlongTokens::AlongTokens(SplitPlacement place, const Convolved& convolved)
    : place_(std::move(place)), result_(place_), shares_(convolved_shares(convolved, *place_.layout)) {
  result_.layout = std::make_shared<TokenLayout>(place_.layout->with_lengths(shares_.lengths));
  for (int r = 0; r < place_.rank; ++r) begin_ += length(place_.layout->of(r));
}

std::optional<AlongTokens> along_tokens(const SplitPlacement& place, const Convolved& convolved) {
  if (place.is_merged() || !place.layout->is_in_order() || convolved.results < 1) return {};
  return AlongTokens(place, convolved);
}

at::Tensor AlongTokens::extended(const SplitGroup& group, const at::Tensor& part) const {
  return group.with_halo(part, place_.dim, *place_.layout, shares_.left, shares_.right);
}

int64_t AlongTokens::beyond_left() const { return std::max<int64_t>(0, shares_.left - begin_); }
int64_t AlongTokens::beyond_right() const {
  return std::max<int64_t>(0, begin_ + place_.length() + shares_.right - place_.total());
}

at::Tensor AlongTokens::with_halo(const SplitGroup& group, const at::Tensor& part, double beyond) const {
  auto x = extended(group, part);
  if (beyond != 0) {
    x.narrow(place_.dim, 0, beyond_left()).fill_(beyond);
    x.narrow(place_.dim, x.size(place_.dim) - beyond_right(), beyond_right()).fill_(beyond);
  }
  return x.narrow(place_.dim, mine().skipped, mine().needed);
}

at::Tensor AlongTokens::with_halo_replicate_padded(const SplitGroup& group, const at::Tensor& part) const {
  auto x = extended(group, part);
  const auto left = beyond_left(), right = beyond_right(), last = x.size(place_.dim) - right - 1;
  if (has_results() && left > 0)
    x.narrow(place_.dim, 0, left)
        .copy_(x.narrow(place_.dim, left, 1).expand_as(x.narrow(place_.dim, 0, left)));
  if (has_results() && right > 0)
    x.narrow(place_.dim, last + 1, right)
        .copy_(x.narrow(place_.dim, last, 1).expand_as(x.narrow(place_.dim, last + 1, right)));
  return x.narrow(place_.dim, mine().skipped, mine().needed);
}

}  // namespace wanpar
