#include "strategy/sequence_parallel/sequence_group.hpp"

#include "module/linear_map.hpp"

namespace wanpar {

at::Tensor SequenceGroup::joined(const at::Tensor& part, int64_t dim, int64_t total) const {
  auto place = layout(total);
  std::vector<int64_t> lengths;
  for (auto& tokens : place.groups()) lengths.push_back(length(tokens));
  auto group = ulysses_.all_gather(part, dim, place.lengths(ring_.rank())).get();
  return place.in_order(ring_.all_gather(std::move(group), dim, lengths).get(), dim);
}

at::Tensor SequenceGroup::share(const at::Tensor& x, int64_t dim) const {
  auto total = x.size(dim);
  return linear_map(
      x, [dim, tokens = mine(total)](const at::Tensor& whole) { return take(whole, dim, tokens); },
      [=, group = *this](const at::Tensor& gradient) { return group.joined(gradient, dim, total); });
}

at::Tensor SequenceGroup::with_summed_gradient(const at::Tensor& x) const {
  return linear_map(
      x, [](const at::Tensor& same) { return same; },
      [ulysses = ulysses_, ring = ring_](const at::Tensor& gradient) {
        return ring.all_reduce(ulysses.all_reduce(gradient).get()).get();
      });
}

}  // namespace wanpar
