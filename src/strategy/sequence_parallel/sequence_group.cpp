#include "strategy/sequence_parallel/sequence_group.hpp"

#include "module/linear_map.hpp"
#include "strategy/sequence_parallel/edges.hpp"

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
      [group = *this](const at::Tensor& gradient) { return group.sum(gradient); });
}

at::Tensor SequenceGroup::sum(const at::Tensor& x) const {
  return ring_.all_reduce(ulysses_.all_reduce(x).get()).get();
}

at::Tensor SequenceGroup::summed(const at::Tensor& x) const {
  auto over_all = [group = *this](const at::Tensor& part) { return group.sum(part); };
  return linear_map(x, over_all, over_all);
}

at::Tensor SequenceGroup::with_neighbours(const at::Tensor& x, int64_t dim, int64_t total, int64_t left,
                                          int64_t right) const {
  const Edges edges(layout(total), ring_.size(), ulysses_.size(), ring_.rank(), ulysses_.rank(), left, right);
  return linear_map(
      x,
      [=, group = *this](const at::Tensor& part) {
        auto mine = part.index_select(dim, edges.own(part.device()));
        auto row = group.ulysses_.all_gather(std::move(mine), dim, edges.row()).get();
        auto all = group.ring_.all_gather(std::move(row), dim, edges.rows()).get();
        return edges.extended(part, all, dim);
      },
      [=, group = *this](const at::Tensor& gradient) {
        auto all = group.sum(edges.taken(gradient, dim));
        auto part = gradient.narrow(dim, left, edges.length()).clone();
        return part.index_add_(dim, edges.own(gradient.device()), edges.of_this_rank(all, dim));
      });
}

}  // namespace wanpar
