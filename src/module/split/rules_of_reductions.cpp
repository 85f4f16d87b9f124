// Reductions: over the sharded dimension, ranks all-reduce their partial results.
#include <ATen/ATen.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <limits>

#include "module/split/rules.hpp"

namespace wanpar {
namespace {

/// The reduced dimensions; all by default.
std::vector<int64_t> reduced_dims(const SplitCall& call) {
  const auto count = call.tensor(0).dim();
  auto dims = call.dims("dim", count).value_or(std::vector<int64_t>());
  if (dims.empty())
    for (int64_t d = 0; d < count; ++d) dims.push_back(d);
  return dims;
}

/// The placement of the result; nullopt if the sharded dimension is reduced.
std::optional<SplitPlacement> place_behind(const SplitCall& call, const std::vector<int64_t>& dims) {
  const auto place = *call.place(0);
  if (std::count(dims.begin(), dims.end(), place.dim)) return {};
  auto* keep = call.named("keepdim");
  if (keep && keep->toBool()) return place;
  return place.at(place.dim -
                  std::count_if(dims.begin(), dims.end(), [&](int64_t d) { return d < place.dim; }));
}

/// Removes the dimensions that it reduces.
bool reduced(SplitCall& call) {
  if (!call.place(0)) return false;
  const auto result = place_behind(call, reduced_dims(call));
  if (!result) return false;
  call.give_own_part(0);
  return call.run({{OutputPlacement::sharded, result}});
}

bool summed(SplitCall& call) {
  if (!call.place(0)) return false;
  const auto result = place_behind(call, reduced_dims(call));
  call.give_own_part(0);
  return call.run({result ? OutputPlacement{OutputPlacement::sharded, result}
                          : OutputPlacement{OutputPlacement::partial_sum}});
}

bool averaged(SplitCall& call) {
  if (reduced(call)) return true;
  if (!call.place(0)) return false;
  int64_t count = 1;
  for (auto d : reduced_dims(call)) count *= call.tensor(0).size(d);
  auto dtype = call.named("dtype");
  auto part = as_split(call.tensor(0))->part();
  if (dtype && dtype->isInt()) part = part.to(dtype->toScalarType());
  if (!part.is_floating_point() && !part.is_complex()) return false;
  auto* keep = call.named("keepdim");
  auto sum = call.group().sum(part.sum(reduced_dims(call), keep && keep->toBool()));
  return call.result({sum.div_(count)}, {{OutputPlacement::replicated}});
}

/// Maximum or minimum of floating-point numbers or integers.
bool extreme(SplitCall& call, bool is_greatest) {
  if (reduced(call)) return true;
  auto* place = call.place(0);
  auto& x = call.tensor(0);
  if (!place || x.scalar_type() == at::kBool || x.numel() == 0 || call.named("other")) return false;
  const auto dims = reduced_dims(call);
  auto* keep = call.named("keepdim");
  auto part = as_split(x)->part();
  if (part.size(place->dim) == 0) {  // no elements here: contribute the identity
    auto sizes = part.sizes().vec();
    sizes[place->dim] = 1;
    const auto least = part.is_floating_point()
                           ? at::Scalar(is_greatest ? -std::numeric_limits<double>::infinity()
                                                    : std::numeric_limits<double>::infinity())
                           : at::Scalar(is_greatest ? std::numeric_limits<int64_t>::min()
                                                    : std::numeric_limits<int64_t>::max());
    if (!part.is_floating_point() && part.scalar_type() != at::kLong) return false;
    part = at::full(sizes, least, part.options());
  }
  auto found =
      is_greatest ? part.amax(dims, keep && keep->toBool()) : part.amin(dims, keep && keep->toBool());
  found = is_greatest ? call.group().greatest(found) : call.group().greatest(found.neg()).neg();
  return call.result({found}, {{OutputPlacement::replicated}});
}
bool greatest(SplitCall& call) { return extreme(call, true); }
bool least(SplitCall& call) { return extreme(call, false); }

/// max and min: of all elements; or along a dimension, with indices, if that is not sharded.
bool greatest_or_larger(SplitCall& call) { return call.named("dim") ? reduced(call) : greatest(call); }
bool least_or_smaller(SplitCall& call) { return call.named("dim") ? reduced(call) : least(call); }

bool any(SplitCall& call) {
  if (reduced(call)) return true;
  if (!call.place(0)) return false;
  auto* keep = call.named("keepdim");
  auto found = as_split(call.tensor(0))->part().ne(0).sum(reduced_dims(call), keep && keep->toBool());
  return call.result({call.group().sum(found).gt(0)}, {{OutputPlacement::replicated}});
}
bool all(SplitCall& call) {
  if (reduced(call)) return true;
  if (!call.place(0)) return false;
  auto* keep = call.named("keepdim");
  auto found = as_split(call.tensor(0))->part().eq(0).sum(reduced_dims(call), keep && keep->toBool());
  return call.result({call.group().sum(found).eq(0)}, {{OutputPlacement::replicated}});
}

// Losses, by at::Reduction: 0 none, 1 mean, 2 sum.

bool loss(SplitCall& call, bool is_backward) {
  const auto reduction = *call.index("reduction");
  const auto kind = call.argument(reduction).toInt();
  const auto x = is_backward ? size_t{1} : size_t{0};
  const auto first = *call.first_split();
  if (first < x && !call.place(x)) return false;
  const auto place = call.place(x) ? *call.place(x) : *call.place(first);
  const auto dims = call.tensor(x).dim();
  if (place.dim >= dims || call.tensor(x).size(place.dim) != place.global_extent()) return false;
  for (size_t i = 0; i < call.size(); ++i) {
    auto& one = call.tensor(i);
    if (one.defined() && !call.give_broadcast(i, place.at(place.dim - (dims - one.dim())))) return false;
  }
  if (kind != at::Reduction::Mean)
    return call.run({is_backward || kind == at::Reduction::None
                         ? OutputPlacement{OutputPlacement::sharded, place}
                         : OutputPlacement{OutputPlacement::partial_sum}});
  call.give(reduction, static_cast<int64_t>(at::Reduction::Sum));
  return call.run_scaled(1.0 / static_cast<double>(call.tensor(x).numel()),
                         is_backward ? OutputPlacement{OutputPlacement::sharded, place}
                                     : OutputPlacement{OutputPlacement::partial_sum});
}
bool loss_forward(SplitCall& call) { return loss(call, false); }
bool loss_backward(SplitCall& call) { return loss(call, true); }

/// The placement for scores [samples, classes, …] and targets [samples, …]; classes must not be sharded.
std::optional<SplitPlacement> of_targets(const SplitCall& call, size_t scores, size_t targets) {
  std::optional<SplitPlacement> place;
  if (auto* own = call.place(scores))
    place = *own;
  else if (auto* own = call.place(targets))
    place = own->at(own->dim + (own->dim > 0));
  if (!place || place->dim == 1 || call.tensor(scores).dim() < 2) return {};
  return place;
}

/// nll_loss_forward(scores, targets, weight, reduction, ignored) = (loss, total weight)
bool likelihood(SplitCall& call) {
  const auto place = of_targets(call, 0, 1);
  const auto kind = call.argument(3).toInt();
  if (!place) return false;
  const auto of_target = place->at(place->dim - (place->dim > 1));
  call.give_part(0, *place);
  call.give_part(1, of_target);
  if (kind == at::Reduction::None)
    return call.run({{OutputPlacement::sharded, of_target}, {OutputPlacement::replicated}});
  call.give(3, static_cast<int64_t>(at::Reduction::Sum));
  torch::jit::Stack found = call.ran();
  auto sum = call.group().sum(found[0].toTensor()), weight = call.group().sum(found[1].toTensor());
  if (kind == at::Reduction::Mean) sum = sum / weight;
  return call.result({sum, weight}, {{OutputPlacement::replicated}});
}

/// nll_loss_backward(gradient, scores, targets, weight, reduction, ignored, total weight)
bool likelihood_backward(SplitCall& call) {
  const auto place = of_targets(call, 1, 2);
  if (!place) return false;
  const auto of_target = place->at(place->dim - (place->dim > 1));
  if (call.argument(4).toInt() == at::Reduction::None)
    call.give_part(0, of_target);
  else
    call.give_full(0);
  call.give_part(1, *place);
  call.give_part(2, of_target);
  return call.run({{OutputPlacement::sharded, place}});
}

}  // namespace

const SplitRules& rules_of_reductions() {
  static const SplitRules rules = {
      {"sum", summed},
      {"nansum", summed},
      {"mean", averaged},
      {"amax", greatest},
      {"amin", least},
      {"max", greatest_or_larger},
      {"min", least_or_smaller},
      {"any", any},
      {"all", all},
      {"prod", reduced},
      {"argmax", reduced},
      {"argmin", reduced},
      {"var", reduced},
      {"std", reduced},
      {"var_mean", reduced},
      {"std_mean", reduced},
      {"norm", reduced},
      {"linalg_vector_norm", reduced},
      {"logsumexp", reduced},
      {"median", reduced},
      {"nanmedian", reduced},
      {"mode", reduced},
      {"kthvalue", reduced},
      {"count_nonzero", reduced},
      {"mse_loss", loss_forward},
      {"mse_loss_backward", loss_backward},
      {"smooth_l1_loss", loss_forward},
      {"smooth_l1_loss_backward", loss_backward},
      {"huber_loss", loss_forward},
      {"huber_loss_backward", loss_backward},
      {"binary_cross_entropy", loss_forward},
      {"binary_cross_entropy_backward", loss_backward},
      {"binary_cross_entropy_with_logits", loss_forward},
      {"soft_margin_loss", loss_forward},
      {"soft_margin_loss_backward", loss_backward},
      {"nll_loss_forward", likelihood},
      {"nll_loss_backward", likelihood_backward},
      {"nll_loss2d_forward", likelihood},
      {"nll_loss2d_backward", likelihood_backward},
  };
  return rules;
}

}  // namespace wanpar
