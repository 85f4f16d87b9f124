#include <c10/util/accumulate.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "module/follow/rules.hpp"

namespace wanpar {
namespace {

using Sizes = at::IntArrayRef;

Verdict at_dim(SamplePlacement place, int64_t dim) {
  place.dim = dim;
  return {place};
}

Verdict kept(Step& step) { return {*step.place(0)}; }

/// Reshape: the split dimension is the one with the same number of elements before and after it.
Verdict reshaped(Step& step) {
  auto& place = *step.place(0);
  Sizes in = step.sizes, out = step.outputs[0].sizes();
  const int64_t outer = c10::multiply_integers(in.slice(0, place.dim)) * place.before;
  const int64_t inner = c10::multiply_integers(in.slice(place.dim + 1)) * place.after;
  std::optional<SamplePlacement> best;
  for (int64_t d = 0; d < static_cast<int64_t>(out.size()); ++d) {
    const int64_t left = c10::multiply_integers(out.slice(0, d)),
                  right = c10::multiply_integers(out.slice(d + 1));
    if (left == 0 || right == 0 || outer % left || inner % right) continue;
    auto found = *at_dim(place, d).place;
    found.before = outer / left, found.after = inner / right;
    if (found.extent() != out[d]) continue;
    auto merged = [](const SamplePlacement& p) { return p.before * p.after; };
    bool better = !best || merged(found) < merged(*best) ||
                  (merged(found) == merged(*best) && d == place.dim);  // prefer the same index
    if (better) best = found;
  }
  if (!best) return {{}, fmt::format("from {} to {} tears the split dimension {} apart", in, out, place.dim)};
  return {best};
}

/// An operator with explicit dimensions: all others stay.
Verdict flattened(Step& step) {
  auto& place = *step.place(0);
  auto first = *step.dim("start_dim", step.dims()), last = *step.dim("end_dim", step.dims());
  if (place.dim < first) return {place};
  if (place.dim > last) return at_dim(place, place.dim - (last - first));
  auto merged = *at_dim(place, first).place;
  Sizes sizes = step.sizes;
  merged.before *= c10::multiply_integers(sizes.slice(first, place.dim - first));
  merged.after *= c10::multiply_integers(sizes.slice(place.dim + 1, last - place.dim));
  return {merged};
}

Verdict unflattened(Step& step) {
  auto& place = *step.place(0);
  auto dim = *step.dim("dim", step.dims());
  if (place.dim < dim) return {place};
  if (place.dim > dim) return at_dim(place, place.dim + step.outputs[0].dim() - step.dims());
  return reshaped(step);
}

Verdict transposed(Step& step) {
  auto& place = *step.place(0);
  auto dims = step.dims();
  auto a = step.dim("dim0", dims), b = step.dim("dim1", dims);
  if (!a) a = step.dim("axis0", dims), b = step.dim("axis1", dims);
  if (!a) a = dims - 2, b = dims - 1;  // t, mT, numpy_T of matrices
  if (dims < 2) return {place};
  return at_dim(place, place.dim == *a ? *b : place.dim == *b ? *a : place.dim);
}

Verdict permuted(Step& step) {
  auto& place = *step.place(0);
  auto order = *step.dim_list("dims", step.dims());
  return at_dim(place, std::find(order.begin(), order.end(), place.dim) - order.begin());
}

Verdict movedim(Step& step) {
  auto& place = *step.place(0);
  auto dims = step.dims();
  auto from = *step.dim_list("source", dims), to = *step.dim_list("destination", dims);
  std::vector<int64_t> order(dims, -1);
  for (size_t i = 0; i < from.size(); ++i) order[to[i]] = from[i];
  int64_t next = 0;
  for (auto& d : order) {
    if (d >= 0) continue;
    while (std::find(from.begin(), from.end(), next) != from.end()) ++next;
    d = next++;
  }
  return at_dim(place, std::find(order.begin(), order.end(), place.dim) - order.begin());
}

Verdict unsqueezed(Step& step) {
  auto& place = *step.place(0);
  return at_dim(place, place.dim + (*step.dim("dim", step.dims() + 1) <= place.dim));
}

Verdict squeezed(Step& step) {
  auto& place = *step.place(0);
  auto dims = step.dim_list("dim", step.dims());
  std::vector<int64_t> every(step.dims());
  for (int64_t d = 0; d < step.dims(); ++d) every[d] = d;
  int64_t gone = 0;
  for (auto d : dims.value_or(every)) {
    if (d == place.dim && place.global_extent() == 1) return {{}, "drops the split dimension"};
    // A local extent of 1 must not be squeezed: on other ranks the dimension stays.
    if (d == place.dim && step.sizes[d] == 1)
      return {{}, fmt::format("may drop the split dimension {}; name other dimensions", d)};
    gone += d < place.dim && step.sizes[d] == 1;
  }
  return at_dim(place, place.dim - gone);
}

/// Adds leading dimensions.
Verdict expanded(Step& step) {
  auto& place = *step.place(0);
  return at_dim(place, place.dim + step.outputs[0].dim() - step.dims());
}

/// x[a:b] that covers the global extent covers the shard.
Verdict sliced(Step& step) {
  auto& place = *step.place(0);
  auto dim = step.dim("dim", step.dims());
  if (*dim != place.dim) return {place};
  auto number = [&](const char* name, int64_t otherwise) {
    auto* value = step.named(name);
    return value && value->isInt() ? value->toInt() : otherwise;
  };
  const auto whole = place.global_extent();
  const auto begin = number("start", 0), end = number("end", whole);
  bool is_all =
      !step.named("length") && (begin == 0 || begin <= -whole) && end >= whole && number("step", 1) == 1;
  if (is_all) return {place};
  return {{}, fmt::format("takes part of dimension {}, which is split", place.dim)};
}

/// Works along one dimension; the others stay.
Verdict beside(Step& step) {
  auto& place = *step.place(0);
  auto dim = step.dim("dim", step.dims());
  if (dim && *dim != place.dim) return {place};
  return {{},
          fmt::format("along dimension {}, which is split, needs the elements of other ranks", place.dim)};
}

Verdict selected(Step& step) {
  auto verdict = beside(step);
  if (verdict.place) verdict.place->dim -= *step.dim("dim", step.dims()) < verdict.place->dim;
  return verdict;
}

Verdict beside_several(Step& step) {
  auto& place = *step.place(0);
  auto dims = step.dim_list("dims", step.dims());
  if (dims && !dims->empty() && !std::count(dims->begin(), dims->end(), place.dim)) return {place};
  return {{},
          fmt::format("along dimension {}, which is split, needs the elements of other ranks", place.dim)};
}

/// repeat and tile.
Verdict repeated(Step& step) {
  auto& place = *step.place(0);
  auto* list = step.named("repeats");
  auto times = (list ? list : step.named("dims"))->toIntVector();
  auto i = static_cast<int64_t>(times.size()) - step.dims() + place.dim;
  if (i >= 0 && times[i] != 1) return {{}, fmt::format("repeats dimension {}, which is split", place.dim)};
  return expanded(step);
}

Verdict padded(Step& step) {
  auto& place = *step.place(0);
  auto pad = step.argument(1).toIntVector();
  auto i = 2 * (step.dims() - 1 - place.dim);
  if (i < static_cast<int64_t>(pad.size()) && (pad[i] || pad[i + 1]))
    return {{}, fmt::format("pads dimension {}, which is split", place.dim)};
  return {place};
}

/// view_as_complex: the last dimension, of pairs, disappears.
Verdict as_complex(Step& step) {
  auto& place = *step.place(0);
  if (place.dim == step.dims() - 1) return {{}, "takes the split dimension for pairs"};
  return {place};
}

}  // namespace

Rule rule_of_views(std::string_view name) {
  static const std::unordered_map<std::string_view, Rule> rules = {
      {"view", reshaped},
      {"reshape", reshaped},
      {"_unsafe_view", reshaped},
      {"_reshape_alias", reshaped},
      {"flatten", flattened},
      {"unflatten", unflattened},
      {"transpose", transposed},
      {"swapaxes", transposed},
      {"swapdims", transposed},
      {"t", transposed},
      {"mT", transposed},
      {"numpy_T", transposed},
      {"permute", permuted},
      {"movedim", movedim},
      {"moveaxis", movedim},
      {"unsqueeze", unsqueezed},
      {"squeeze", squeezed},
      {"expand", expanded},
      {"broadcast_to", expanded},
      {"repeat", repeated},
      {"tile", repeated},
      {"repeat_interleave", beside},
      {"narrow", sliced},
      {"slice", sliced},
      {"select", selected},
      {"unbind", selected},
      {"split", beside},
      {"split_with_sizes", beside},
      {"chunk", beside},
      {"tensor_split", beside},
      {"index_select", beside},
      {"roll", beside_several},
      {"flip", beside_several},
      {"pad", padded},
      {"constant_pad_nd", padded},
      {"view_as_complex", as_complex},
      {"view_as_real", kept},
      {"contiguous", kept},
      {"clone", kept},
      {"detach", kept},
      {"alias", kept},
      {"to", kept},
      {"_to_copy", kept},
      {"cpu", kept},
      {"cuda", kept},
      {"real", kept},
      {"imag", kept},
      {"conj", kept},
      {"resolve_conj", kept},
      {"requires_grad", kept},
      {"empty_like", kept},
      {"zeros_like", kept},
      {"ones_like", kept},
      {"full_like", kept},
      {"fill", kept},
      {"zero", kept},
  };
  auto found = rules.find(name);
  return found == rules.end() ? nullptr : found->second;
}

}  // namespace wanpar
