// Views: reshapes, permutations, slices.
#include <ATen/ATen.h>
#include <ATen/TensorUtils.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "module/split/rules.hpp"

namespace wanpar {
namespace {

using Sizes = at::IntArrayRef;

/// Reshape: the sharded dimension is the one with the same number of elements before and after it.
std::optional<SplitPlacement> reshaped(const SplitPlacement& place, Sizes in, Sizes out) {
  const int64_t outer = c10::multiply_integers(in.slice(0, place.dim)) * place.before;
  const int64_t inner = c10::multiply_integers(in.slice(place.dim + 1)) * place.after;
  std::optional<SplitPlacement> best;
  for (int64_t d = 0; d < static_cast<int64_t>(out.size()); ++d) {
    const int64_t left = c10::multiply_integers(out.slice(0, d)),
                  right = c10::multiply_integers(out.slice(d + 1));
    if (left == 0 || right == 0 || outer % left || inner % right) continue;
    auto found = place.at(d);
    found.before = outer / left, found.after = inner / right;
    if (found.global_extent() != out[d]) continue;
    auto merged = [](const SplitPlacement& p) { return p.before * p.after; };
    bool better = !best || merged(found) < merged(*best) ||
                  (merged(found) == merged(*best) && d == place.dim);  // prefer the same index
    if (better) best = found;
  }
  return best;
}

/// The sizes passed to view, with −1 resolved.
std::vector<int64_t> asked_sizes(Sizes in, std::vector<int64_t> sizes) {
  int64_t known = 1, open = -1;
  for (size_t d = 0; d < sizes.size(); ++d)
    if (sizes[d] < 0)
      open = static_cast<int64_t>(d);
    else
      known *= sizes[d];
  if (open >= 0) sizes[open] = known ? c10::multiply_integers(in) / known : 0;
  return sizes;
}

bool viewed(SplitCall& call) {
  auto& x = call.tensor(0);
  if (!call.argument(1).isIntList()) return false;  // view as another dtype
  auto sizes = asked_sizes(x.sizes(), call.argument(1).toIntVector());
  if (c10::multiply_integers(sizes) != x.numel()) return false;
  auto place = reshaped(*call.place(0), x.sizes(), sizes);
  if (!place) return false;
  const auto strides = at::detail::computeStride(x.sizes(), x.strides(), at::DimVector(sizes));
  if (!strides) {
    call.geometry();  // throws LibTorch's error
    return false;
  }
  const SplitTensor::Geometry geometry{at::DimVector(sizes), *strides, x.storage_offset()};
  sizes[place->dim] = place->extent();
  return call.result_view(as_split(x)->part().reshape(sizes), *place, geometry);
}

bool viewed_alike(SplitCall& call, const SplitPlacement& place) {
  call.give_own_part(0);
  return call.run_view({place});
}

bool kept(SplitCall& call) { return viewed_alike(call, *call.place(0)); }

/// Dimension d of the result is dimension order[d].
bool reordered(SplitCall& call, const std::vector<int64_t>& order) {
  auto* x = as_split(call.tensor(0));
  const auto whole = x->geometry();
  auto geometry = whole;
  int64_t dim = 0;
  for (size_t d = 0; d < order.size(); ++d) {
    geometry.sizes[d] = whole.sizes[order[d]], geometry.strides[d] = whole.strides[order[d]];
    if (order[d] == x->place()->dim) dim = static_cast<int64_t>(d);
  }
  return call.result_view(x->part().permute(order), x->place()->at(dim), geometry);
}

bool transposed(SplitCall& call) {
  const auto dims = call.tensor(0).dim();
  auto a = call.dim("dim0", dims), b = call.dim("dim1", dims);
  if (!a) a = dims - 2, b = dims - 1;  // t
  if (dims < 2) return kept(call);
  std::vector<int64_t> order(dims);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::swap(order[*a], order[*b]);
  return reordered(call, order);
}

bool permuted(SplitCall& call) { return reordered(call, *call.dims("dims", call.tensor(0).dim())); }

bool unsqueezed(SplitCall& call) {
  auto place = *call.place(0);
  return viewed_alike(call, place.at(place.dim + (*call.dim("dim", call.tensor(0).dim() + 1) <= place.dim)));
}

bool squeezed(SplitCall& call) {
  auto place = *call.place(0);
  auto& x = call.tensor(0);
  std::vector<int64_t> every(x.dim());
  for (int64_t d = 0; d < x.dim(); ++d) every[d] = d;
  std::vector<int64_t> gone;
  for (auto d : call.dims("dim", x.dim()).value_or(every))
    if (x.size(d) == 1) gone.push_back(d);
  if (std::count(gone.begin(), gone.end(), place.dim)) return false;
  const auto before = std::count_if(gone.begin(), gone.end(), [&](int64_t d) { return d < place.dim; });
  return call.result_view({at::squeeze(as_split(x)->part(), gone)}, {place.at(place.dim - before)});
}

bool expanded(SplitCall& call) {
  auto place = *call.place(0);
  auto sizes = call.argument(1).toIntVector();
  const auto d = place.dim + static_cast<int64_t>(sizes.size()) - call.tensor(0).dim();
  if (d < 0 || (sizes[d] >= 0 && sizes[d] != place.global_extent())) return false;
  sizes[d] = place.extent();
  call.give(1, sizes);
  return viewed_alike(call, place.at(d));
}

bool sliced(SplitCall& call) {
  const auto place = *call.place(0);
  auto& x = call.tensor(0);
  if (*call.dim("dim", x.dim()) != place.dim) return kept(call);
  const auto whole = place.global_extent();
  auto bound = [&](const char* name, int64_t otherwise) {
    auto* value = call.named(name);
    auto at = value && value->isInt() ? value->toInt() : otherwise;
    return std::clamp(at < 0 ? at + whole : at, int64_t{0}, whole);
  };
  const auto begin = bound("start", 0), end = std::max(begin, bound("end", whole));
  if (*call.named("step") != c10::IValue(1)) return false;
  if (begin == 0 && end == whole) return call.result_view({at::alias(as_split(x)->part())}, {place});
  if (place.is_merged() || begin == end) return false;
  auto part = place.part(begin, end);
  return call.result_view({as_split(x)->part().narrow(place.dim, part.first, part.count)}, {part.place});
}

SplitTensor::Geometry narrowed(SplitTensor::Geometry whole, int64_t dim, int64_t index) {
  whole.offset += index * whole.strides[dim];
  whole.sizes[dim] = 1;
  return whole;
}

/// Selects one token: a copy on every rank, gathered from its owner.
bool selected_token(SplitCall& call, const SplitPlacement& place) {
  auto& x = call.tensor(0);
  auto index = call.named("index")->toInt();
  if (index < 0) index += place.total();
  if (place.is_merged() || index < 0 || index >= place.total()) return false;
  auto part = place.part(index, index + 1);
  static const auto squeeze = c10::Dispatcher::singleton().findSchemaOrThrow("aten::squeeze", "dim");
  auto token = call.view_of_first(as_split(x)->part().narrow(place.dim, part.first, part.count), part.place,
                                  narrowed(as_split(x)->geometry(), place.dim, index));
  return call.result_copy(token, squeeze, {token, place.dim}, {full_tensor(token).squeeze(place.dim)});
}

bool selected(SplitCall& call) {
  const auto place = *call.place(0);
  const auto dim = *call.dim("dim", call.tensor(0).dim());
  if (dim == place.dim) return call.named("index") && selected_token(call, place);
  return viewed_alike(call, place.at(place.dim - (dim < place.dim)));
}

/// split and split_with_sizes.
bool parted(SplitCall& call) {
  const auto place = *call.place(0);
  auto& x = call.tensor(0);
  if (*call.dim("dim", x.dim()) != place.dim) return kept(call);
  if (place.is_merged()) return false;
  std::vector<int64_t> sizes;
  if (call.argument(1).isInt()) {
    const auto size = call.argument(1).toInt();
    if (size <= 0) return false;
    for (int64_t begin = 0; begin < x.size(place.dim); begin += size)
      sizes.push_back(std::min(size, x.size(place.dim) - begin));
  } else {
    sizes = call.argument(1).toIntVector();
    if (c10::multiply_integers(sizes) == 0 ||
        std::count_if(sizes.begin(), sizes.end(), [](auto n) { return n < 0; }))
      return false;
    int64_t sum = 0;
    for (auto size : sizes) sum += size;
    if (sum != x.size(place.dim)) return false;
  }
  std::vector<at::Tensor> parts;
  std::vector<SplitPlacement> places;
  int64_t begin = 0;
  for (auto size : sizes) {
    auto part = place.part(begin, begin + size);
    parts.push_back(as_split(x)->part().narrow(place.dim, part.first, part.count));
    places.push_back(part.place);
    begin += size;
  }
  return call.result_view(parts, places);
}

bool unfolded(SplitCall& call) {
  const auto place = *call.place(0);
  if (*call.dim("dimension", call.tensor(0).dim()) == place.dim) return false;
  return kept(call);
}

/// view_as_complex: the last dimension, of pairs, disappears.
bool as_complex(SplitCall& call) {
  if (call.place(0)->dim == call.tensor(0).dim() - 1) return false;
  return kept(call);
}

/// Views that differ only in conjugate or negative bits are copies here.
bool conjugated(SplitCall& call) {
  const auto place = *call.place(0);
  call.give_own_part(0);
  return call.run({{OutputPlacement::sharded, place}});
}

}  // namespace

const SplitRules& rules_of_views() {
  static const SplitRules rules = {
      {"view", viewed},
      {"_unsafe_view", viewed},
      {"transpose", transposed},
      {"t", transposed},
      {"permute", permuted},
      {"unsqueeze", unsqueezed},
      {"squeeze", squeezed},
      {"expand", expanded},
      {"slice", sliced},
      {"select", selected},
      {"unbind", selected},
      {"split", parted},
      {"split_with_sizes", parted},
      {"unfold", unfolded},
      {"view_as_complex", as_complex},
      {"view_as_real", kept},
      {"alias", kept},
      {"detach", kept},
      {"_conj", conjugated},
      {"_neg_view", conjugated},
  };
  return rules;
}

}  // namespace wanpar
