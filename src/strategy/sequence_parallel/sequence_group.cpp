#include "strategy/sequence_parallel/sequence_group.hpp"

#include <ATen/ATen.h>

#include "module/linear_map.hpp"
#include "strategy/sequence_parallel/edges.hpp"

namespace wanpar {

at::Tensor SequenceGroup::joined(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const {
  // Ranks move numbers of some kinds only.
  if (part.is_complex())
    return at::view_as_complex(joined(at::view_as_real(part.resolve_conj()).contiguous(), dim, layout));
  if (part.scalar_type() == at::kChar || part.scalar_type() == at::kShort)
    return joined(part.to(at::kInt), dim, layout).to(part.scalar_type());
  std::vector<int64_t> lengths;
  for (auto& tokens : layout.groups()) lengths.push_back(length(tokens));
  auto group = ulysses_.all_gather(part, dim, layout.lengths(ring_.rank())).get();
  return layout.in_order(ring_.all_gather(std::move(group), dim, lengths).get(), dim);
}

at::Tensor SequenceGroup::share(const at::Tensor& x, int64_t dim, const TokenLayout& layout) const {
  return linear_map(
      x,
      [=, tokens = mine(layout)](const at::Tensor& whole) {
        return take(whole, dim, tokens).clone(at::MemoryFormat::Contiguous);
      },
      [=, group = *this](const at::Tensor& gradient) {
        return group.joined(gradient.contiguous(), dim, layout);
      });
}

at::Tensor SequenceGroup::unsplit(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const {
  return linear_map(
      part, [=, group = *this](const at::Tensor& x) { return group.joined(x.contiguous(), dim, layout); },
      [=, tokens = mine(layout)](const at::Tensor& gradient) {
        return take(gradient, dim, tokens).contiguous();
      });
}

at::Tensor SequenceGroup::with_summed_gradient(const at::Tensor& x) const {
  return linear_map(
      x, [](const at::Tensor& same) { return same; },
      [group = *this](const at::Tensor& gradient) { return group.sum(gradient); });
}

at::Tensor SequenceGroup::sum(const at::Tensor& x) const {
  return ring_.all_reduce(ulysses_.all_reduce(x).get()).get();
}

at::Tensor SequenceGroup::greatest(const at::Tensor& x) const {
  return ring_.all_reduce(ulysses_.all_reduce(x, ReduceOp::max).get(), ReduceOp::max).get();
}

at::Tensor SequenceGroup::summed(const at::Tensor& x) const {
  auto over_all = [group = *this](const at::Tensor& part) { return group.sum(part); };
  return linear_map(x, over_all, over_all);
}

at::Tensor SequenceGroup::total(const at::Tensor& x) const {
  return linear_map(
      x, [group = *this](const at::Tensor& part) { return group.sum(part); },
      [](const at::Tensor& gradient) { return gradient; });
}

at::Tensor SequenceGroup::with_neighbours(const at::Tensor& x, int64_t dim, const TokenLayout& layout,
                                          int64_t left, int64_t right) const {
  const Edges edges(layout, ring_.size(), ulysses_.size(), ring_.rank(), ulysses_.rank(), left, right);
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

std::vector<std::vector<double>> SequenceGroup::rows(const std::vector<double>& mine) const {
  auto numbers = at::tensor(mine, at::kDouble).unsqueeze(0);
  for (auto* group : {&ulysses_, &ring_})
    if (group->size() > 1) numbers = group->all_gather(numbers.to(group->device()), 0).get();
  auto all = numbers.cpu().contiguous();
  std::vector<std::vector<double>> rows;
  for (int r = 0; r < size(); ++r) {
    auto* first = all.const_data_ptr<double>() + r * static_cast<int64_t>(mine.size());
    rows.emplace_back(first, first + mine.size());
  }
  return rows;
}

}  // namespace wanpar
