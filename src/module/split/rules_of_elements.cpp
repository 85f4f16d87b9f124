// Elementwise operators, and operators along a dimension that is not sharded.
#include <ATen/ATen.h>

#include <algorithm>

#include "module/split/rules.hpp"

namespace wanpar {
namespace {

int64_t most_dims(const SplitCall& call) {
  int64_t dims = 0;
  for (size_t i = 0; i < call.size(); ++i)
    if (call.tensor(i).defined()) dims = std::max(dims, call.tensor(i).dim());
  return dims;
}

/// The placement of the result: that of the tensor written to, or of an input that does not broadcast along
/// its sharded dimension.
std::optional<SplitPlacement> place_of_result(const SplitCall& call, int64_t dims) {
  auto at_front = [&](size_t i) {
    return call.place(i)->at(call.place(i)->dim + dims - call.tensor(i).dim());
  };
  if (!call.facts().written.empty()) {
    const auto written = call.facts().written[0];
    return call.place(written) ? std::optional(at_front(written)) : std::nullopt;
  }
  for (size_t i = 0; i < call.size(); ++i) {
    if (!call.place(i)) continue;
    auto place = at_front(i);
    bool is_broadcast = false;
    for (size_t j = 0; j < call.size(); ++j) {
      auto& other = call.tensor(j);
      const auto d = other.defined() ? place.dim - (dims - other.dim()) : -1;
      is_broadcast |= d >= 0 && place.global_extent() == 1 && other.size(d) != 1;
    }
    if (!is_broadcast) return place;
  }
  return {};
}

/// All tensors have the same shape, except along the dimensions that the operator works on.
bool alike(SplitCall& call, const SplitPlacement& place) {
  for (size_t i = 0; i < call.size(); ++i) {
    auto& x = call.tensor(i);
    if (!x.defined() || x.dim() == 0) continue;
    if (x.dim() <= place.dim || x.size(place.dim) != place.global_extent()) return false;
    if (call.facts().writes(i) && !(call.place(i) && call.place(i)->dim == place.dim)) return false;
  }
  for (size_t i = 0; i < call.size(); ++i)
    if (auto& x = call.tensor(i); x.defined() && x.dim() > 0) call.give_part(i, place);
  return call.run({{OutputPlacement::sharded, place}});
}

/// Operators along `dim`, which must not be sharded.
bool along(SplitCall& call) {
  const auto first = *call.first_split();
  const auto place = *call.place(first);
  auto dim = call.dim("dim", call.tensor(first).dim());
  if (!dim || *dim == place.dim) return false;
  return alike(call, place);
}

bool along_several(SplitCall& call) {
  auto* place = call.place(0);
  if (!place) return false;
  auto dims = call.dims("dims", call.tensor(0).dim());
  if (!dims || dims->empty() || std::count(dims->begin(), dims->end(), place->dim)) return false;
  return alike(call, *place);
}

/// Operators along the last two dimensions.
bool of_matrices(SplitCall& call) {
  auto* place = call.place(0);
  if (!place || place->dim >= call.tensor(0).dim() - 2) return false;
  return alike(call, *place);
}

/// index_select(x, dim, index).
bool index_selected(SplitCall& call) {
  auto* place = call.place(0);
  if (!place || *call.dim("dim", call.tensor(0).dim()) == place->dim) return false;
  const auto like = *place;
  call.give_own_part(0);
  call.give_full(2);
  return call.run({{OutputPlacement::sharded, like}});
}

/// x[…, index, …]: one index, or several adjacent ones.
bool indexed(SplitCall& call) {
  std::vector<std::optional<at::Tensor>> indices;
  for (auto& index : call.argument(1).toListRef()) indices.push_back(index.toOptional<at::Tensor>());
  int64_t first = -1, last = -1, index_dims = 0, count = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    if (!indices[i] || !indices[i]->defined()) continue;
    if (indices[i]->scalar_type() == at::kBool || indices[i]->scalar_type() == at::kByte) return false;
    if (first < 0) first = static_cast<int64_t>(i);
    last = static_cast<int64_t>(i), ++count;
    index_dims = std::max(index_dims, indices[i]->dim());
  }
  if (count == 0 || last - first + 1 != count) return false;
  if (auto* place = call.place(0)) {
    for (auto& index : indices)
      if (index && placement_of(*index)) return false;
    if (first <= place->dim && place->dim <= last) return false;
    const auto result = place->at(place->dim < first ? place->dim : place->dim - count + index_dims);
    call.give_own_part(0);
    return call.run({{OutputPlacement::sharded, result}});
  }
  if (count != 1) return false;
  auto* place = placement_of(*indices[first]);
  auto mine = indices;
  mine[first] = as_split(*indices[first])->part();
  const auto result = place->at(place->dim + first);
  call.give(1, c10::List<std::optional<at::Tensor>>(mine));
  return call.run({{OutputPlacement::sharded, result}});
}

bool embedded(SplitCall& call) {
  if (call.place(0) || !call.place(1)) return false;
  auto* by_frequency = call.named("scale_grad_by_freq");
  if (by_frequency && by_frequency->toBool()) return false;
  const auto place = *call.place(1);
  call.give_own_part(1);
  return call.run({{OutputPlacement::sharded, place}});
}

bool embedded_backward(SplitCall& call) {
  const auto first = *call.first_split();
  if (call.named("scale_grad_by_freq")->toBool()) return false;
  const auto place = *call.place(first);
  if (place.dim >= call.tensor(1).dim()) return false;
  call.give_part(0, place);
  call.give_part(1, place);
  return call.run({{OutputPlacement::partial_sum}});
}

/// Factories with sizes: if those are the sizes of the first argument, the result is sharded alike.
bool made_like(SplitCall& call) {
  auto* place = call.place(0);
  if (!place) return false;
  const auto like = *place;
  const auto sizes = call.argument(1).toIntVector();
  call.give_own_part(0);
  if (sizes != call.tensor(0).sizes()) return call.run({{OutputPlacement::replicated}});
  auto here = sizes;
  here[like.dim] = like.extent();
  call.give(1, here);
  return call.run({{OutputPlacement::sharded, like}});
}

/// Factories with sizes and strides: the result is replicated.
bool made(SplitCall& call) {
  if (!call.place(0)) return false;
  call.give_own_part(0);
  return call.run({{OutputPlacement::replicated}});
}

bool repeated(SplitCall& call) {
  const auto place = *call.place(0);
  const auto times = call.argument(1).toIntVector();
  const auto d = static_cast<int64_t>(times.size()) - call.tensor(0).dim() + place.dim;
  if (times[d] != 1) return false;
  call.give_own_part(0);
  return call.run({{OutputPlacement::sharded, place.at(d)}});
}

/// The backward of slice and select along another dimension, with the input's sizes as argument.
bool spread_back(SplitCall& call, bool is_selected) {
  auto* place = call.place(0);
  if (!place) return false;
  auto sizes = call.argument(1).toIntVector();
  const auto dim = *call.dim("dim", static_cast<int64_t>(sizes.size()));
  const auto result = place->at(place->dim + (is_selected && dim <= place->dim));
  if (!is_selected && dim == result.dim) return false;
  sizes[result.dim] = result.extent();
  call.give_own_part(0);
  call.give(1, sizes);
  return call.run({{OutputPlacement::sharded, result}});
}
bool sliced_backward(SplitCall& call) { return spread_back(call, false); }
bool selected_backward(SplitCall& call) { return spread_back(call, true); }

/// The result has one more dimension at the end.
bool unfolded_backward(SplitCall& call) {
  auto* place = call.place(0);
  if (!place || *call.dim("dim", static_cast<int64_t>(call.argument(1).toIntVector().size())) == place->dim)
    return false;
  const auto result = *place;
  auto sizes = call.argument(1).toIntVector();
  sizes[result.dim] = result.extent();
  call.give_own_part(0);
  call.give(1, sizes);
  return call.run({{OutputPlacement::sharded, result}});
}

}  // namespace

bool elementwise(SplitCall& call) {
  const auto dims = most_dims(call);
  const auto place = place_of_result(call, dims);
  if (!place) return false;
  for (size_t i = 0; i < call.size(); ++i) {
    auto& x = call.tensor(i);
    if (!x.defined()) {
      if (call.argument(i).isTensorList()) return false;
      continue;
    }
    if (!call.give_broadcast(i, place->at(place->dim - (dims - x.dim())))) return false;
  }
  return call.run({{OutputPlacement::sharded, place}});
}

const SplitRules& rules_of_elements() {
  static const SplitRules rules = {
      // Elementwise, but without the pointwise tag.
      {"copy", elementwise},
      {"_to_copy", elementwise},
      {"clone", elementwise},
      {"lift_fresh", elementwise},
      {"fill", elementwise},
      {"zero", elementwise},
      {"empty_like", elementwise},
      {"zeros_like", elementwise},
      {"ones_like", elementwise},
      {"full_like", elementwise},
      {"gelu", elementwise},
      {"gelu_backward", elementwise},
      {"leaky_relu", elementwise},
      {"leaky_relu_backward", elementwise},
      {"hardswish", elementwise},
      {"hardswish_backward", elementwise},
      {"threshold", elementwise},
      {"threshold_backward", elementwise},
      {"softshrink", elementwise},
      {"softshrink_backward", elementwise},
      {"hardshrink_backward", elementwise},
      {"softplus_backward", elementwise},
      {"elu_backward", elementwise},
      {"hardtanh_backward", elementwise},
      {"hardsigmoid_backward", elementwise},
      {"silu_backward", elementwise},
      {"mish_backward", elementwise},
      {"sigmoid_backward", elementwise},
      {"tanh_backward", elementwise},
      {"logit_backward", elementwise},
      {"_prelu_kernel", elementwise},
      {"_prelu_kernel_backward", elementwise},
      {"complex", elementwise},
      {"polar", elementwise},
      {"masked_fill", elementwise},
      {"__and__", elementwise},
      {"__or__", elementwise},
      {"rsub", elementwise},
      {"where", elementwise},
      {"log_sigmoid_forward", elementwise},
      {"log_sigmoid_backward", elementwise},
      {"_softmax", along},
      {"_softmax_backward_data", along},
      {"_log_softmax", along},
      {"_log_softmax_backward_data", along},
      {"cumsum", along},
      {"cumprod", along},
      {"cummax", along},
      {"cummin", along},
      {"logcumsumexp", along},
      {"sort", along},
      {"argsort", along},
      {"topk", along},
      {"glu", along},
      {"gather", along},
      {"scatter", along},
      {"scatter_add", along},
      {"flip", along_several},
      {"roll", along_several},
      {"tril", of_matrices},
      {"triu", of_matrices},
      {"index_select", index_selected},
      {"index", indexed},
      {"embedding", embedded},
      {"embedding_dense_backward", embedded_backward},
      {"new_empty", made_like},
      {"new_zeros", made_like},
      {"new_ones", made_like},
      {"new_full", made_like},
      {"new_empty_strided", made},
      {"repeat", repeated},
      {"slice_backward", sliced_backward},
      {"select_backward", selected_backward},
      {"unfold_backward", unfolded_backward},
  };
  return rules;
}

}  // namespace wanpar
