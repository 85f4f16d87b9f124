#include "strategy/split/split_ranks.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/function.h>

#include <wanpar/core/error.hpp>

#include "module/split/split_call.hpp"
#include "strategy/split/halo_layout.hpp"
#include "strategy/split/halos.hpp"

namespace wanpar {

void SplitRanks::enter(Alike* alike) const {
  alike_ = alike;
  thread_ = std::this_thread::get_id();
}

void SplitRanks::leave() const {
  alike_ = nullptr;
  thread_ = std::thread::id();
}

bool SplitRanks::is_beside_the_pass() const {
  const auto thread = thread_.load();
  if (thread == std::thread::id() || thread == std::this_thread::get_id()) return false;
  return !torch::autograd::get_current_node();  // backward runs on autograd's threads
}

void SplitRanks::exchanges(const char* what) const {
  if (is_beside_the_pass())
    throw UsageError(
        fmt::format("{}: {} of split tokens is asked for by another thread than that which called the module "
                    "(std::async, torch.jit.fork); let the module compute it itself",
                    name(), what));
}

at::Tensor SplitRanks::joined(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const {
  exchanges("the whole");
  // Reordering supports some dtypes only.
  if (part.is_complex())
    return at::view_as_complex(joined(at::view_as_real(part.resolve_conj()).contiguous(), dim, layout));
  if (part.scalar_type() == at::kChar || part.scalar_type() == at::kShort)
    return joined(part.to(at::kInt), dim, layout).to(part.scalar_type());
  std::vector<int64_t> lengths;
  for (auto& tokens : layout.groups()) lengths.push_back(length(tokens));
  auto group = fast_.all_gather(part.contiguous(), dim, layout.lengths(slow_.rank())).get();
  return layout.in_order(slow_.all_gather(std::move(group), dim, lengths).get(), dim);
}

at::Tensor SplitRanks::sum(const at::Tensor& x) const {
  exchanges("a sum");
  if (x.is_complex()) return at::view_as_complex(sum(at::view_as_real(x.resolve_conj()).contiguous()));
  return slow_.all_reduce(fast_.all_reduce(x).get()).get();
}

at::Tensor SplitRanks::greatest(const at::Tensor& x) const {
  exchanges("the greatest");
  return slow_.all_reduce(fast_.all_reduce(x, ReduceOp::max).get(), ReduceOp::max).get();
}

at::Tensor SplitRanks::with_halo(const at::Tensor& part, int64_t dim, const TokenLayout& layout, int64_t left,
                                 int64_t right) const {
  exchanges("a window");
  if (fast_.size() == 1) return with_halos(slow_, part, dim, layout, left, right);
  if (slow_.size() == 1) return with_halos(fast_, part, dim, layout, left, right);
  const HaloLayout halo(layout, slow_.size(), fast_.size(), slow_.rank(), fast_.rank(), left, right);
  auto mine = part.index_select(dim, halo.own(part.device()));
  auto row = fast_.all_gather(std::move(mine), dim, halo.row()).get();
  auto all = slow_.all_gather(std::move(row), dim, halo.rows()).get();
  return halo.extended(part, all, dim);
}

at::Tensor SplitRanks::accumulate_halo(const at::Tensor& extended, int64_t dim, const TokenLayout& layout,
                                       int64_t left, int64_t right) const {
  const HaloLayout halo(layout, slow_.size(), fast_.size(), slow_.rank(), fast_.rank(), left, right);
  auto all = sum(halo.taken(extended, dim));
  auto part = extended.narrow(dim, left, halo.length()).clone();
  return part.index_add_(dim, halo.own(extended.device()), halo.of_this_rank(all, dim));
}

void SplitRanks::meets(const SplitCall& call) const {
  if (!alike_ || is_beside_the_pass()) return;
  auto& op = call.name();
  alike_->note_call(op);
  auto* beta = call.named("beta");  // with beta = 0 the added tensor is ignored
  bool ignores_first = beta && beta->isScalar() && beta->toScalar().toDouble() == 0;
  for (size_t i = 0; i < call.size(); ++i) {
    auto& value = call.argument(i);
    if (call.facts().writes(i) || (i == 0 && ignores_first)) continue;
    if (value.isTensor() && value.toTensor().defined() && !as_split(value.toTensor()))
      alike_->note_tensor(op, value.toTensor());
    if (value.isInt()) alike_->note_number(op, static_cast<double>(value.toInt()));
    if (value.isDouble()) alike_->note_number(op, value.toDouble());
    if (value.isBool()) alike_->note_number(op, value.toBool());
    if (value.isIntList())
      for (auto number : value.toIntVector()) alike_->note_number(op, static_cast<double>(number));
  }
}

}  // namespace wanpar
