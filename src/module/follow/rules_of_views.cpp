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

/// The tensor whose place a rule of one operand moves.
const SplitPlace& own(const Step& step) {
  if (auto* place = step.place(0)) return *place;
  step.refuse("meets a split tensor where only its first operand may be one");
}

SplitPlace moved(SplitPlace place, int64_t dim) {
  place.dim = dim;
  return place;
}

std::optional<SplitPlace> kept(const Step& step) { return own(step); }

/// Takes no more than a dtype from its second operand.
std::optional<SplitPlace> kept_if_own(const Step& step) {
  return step.place(0) ? std::optional(*step.place(0)) : std::nullopt;
}

/// The dimension whose extent a view leaves free, given by -1; none where all are given.
std::optional<int64_t> free_dim(const Step& step) {
  for (auto* name : {"size", "shape", "sizes"})
    if (auto* list = step.named(name)) {
      auto sizes = list->toIntVector();
      auto found = std::find(sizes.begin(), sizes.end(), -1) - sizes.begin();
      if (found == static_cast<int64_t>(sizes.size())) return {};
      return found + step.dim("dim", step.tensor(0).dim()).value_or(0);
    }
  return {};
}

/// A number that is not that of the split elements, and yet left free, counts the pieces that they are cut
/// into: they are whole here only because one piece has as many as this rank. Behind them it may count heads.
bool may_count_pieces(int64_t free, int64_t extent, const SplitPlace& place) {
  return free < place.dim || (free > place.dim && extent == 1);
}

/// The same elements in the same order under another shape: the split dimension is where as many elements
/// stand before and behind it as did.
std::optional<SplitPlace> reshaped(const Step& step) {
  auto& place = own(step);
  const auto free = free_dim(step);
  Sizes in = step.tensor(0).sizes(), out = step.outputs[0].sizes();
  const int64_t outer = c10::multiply_integers(in.slice(0, place.dim)) * place.before;
  const int64_t inner = c10::multiply_integers(in.slice(place.dim + 1)) * place.after;
  std::optional<SplitPlace> best;
  for (int64_t d = 0; d < static_cast<int64_t>(out.size()); ++d) {
    const int64_t left = c10::multiply_integers(out.slice(0, d)),
                  right = c10::multiply_integers(out.slice(d + 1));
    if (left == 0 || right == 0 || outer % left || inner % right) continue;
    auto found = moved(place, d);
    found.before = outer / left, found.after = inner / right;
    if (found.extent() != out[d]) continue;
    auto merged = [](const SplitPlace& p) { return p.before * p.after; };
    // A share of one element could stand in any dimension of one: in the one left free, else most often the
    // leading ones stay as they were.
    auto likely = [&](const SplitPlace& p) { return std::pair(p.dim == free, p.dim == place.dim); };
    bool better = !best || merged(found) < merged(*best) ||
                  (merged(found) == merged(*best) && likely(found) > likely(*best));
    if (better) best = found;
  }
  if (!best) step.refuse(fmt::format("from {} to {} tears the split dimension {} apart", in, out, place.dim));
  if (free && may_count_pieces(*free, out[*free], *best))
    step.refuse(
        fmt::format("from {} to {} leaves dimension {} free, which may count pieces of as many elements as "
                    "this rank has; write -1 for the split dimension",
                    in, out, *free));
  return best;
}

/// The dimensions are named, so that those beside them are known to stay.
std::optional<SplitPlace> flattened(const Step& step) {
  auto& place = own(step);
  auto dims = step.tensor(0).dim();
  auto first = *step.dim("start_dim", dims), last = *step.dim("end_dim", dims);
  if (place.dim < first) return place;
  if (place.dim > last) return moved(place, place.dim - (last - first));
  auto merged = moved(place, first);
  auto sizes = step.tensor(0).sizes();
  merged.before *= c10::multiply_integers(sizes.slice(first, place.dim - first));
  merged.after *= c10::multiply_integers(sizes.slice(place.dim + 1, last - place.dim));
  return merged;
}

std::optional<SplitPlace> unflattened(const Step& step) {
  auto& place = own(step);
  auto dim = *step.dim("dim", step.tensor(0).dim());
  if (place.dim < dim) return place;
  if (place.dim > dim) return moved(place, place.dim + step.outputs[0].dim() - step.tensor(0).dim());
  return reshaped(step);
}

std::optional<SplitPlace> transposed(const Step& step) {
  auto& place = own(step);
  auto dims = step.tensor(0).dim();
  auto a = step.dim("dim0", dims), b = step.dim("dim1", dims);
  if (!a) a = step.dim("axis0", dims), b = step.dim("axis1", dims);
  if (!a) a = dims - 2, b = dims - 1;  // t, mT, numpy_T of matrices
  if (dims < 2) return place;
  return moved(place, place.dim == *a ? *b : place.dim == *b ? *a : place.dim);
}

std::optional<SplitPlace> permuted(const Step& step) {
  auto& place = own(step);
  auto order = *step.dims("dims", step.tensor(0).dim());
  return moved(place, std::find(order.begin(), order.end(), place.dim) - order.begin());
}

std::optional<SplitPlace> movedim(const Step& step) {
  auto& place = own(step);
  auto dims = step.tensor(0).dim();
  auto from = *step.dims("source", dims), to = *step.dims("destination", dims);
  std::vector<int64_t> order(dims, -1);
  for (size_t i = 0; i < from.size(); ++i) order[to[i]] = from[i];
  int64_t next = 0;
  for (auto& d : order) {
    if (d >= 0) continue;
    while (std::find(from.begin(), from.end(), next) != from.end()) ++next;
    d = next++;
  }
  return moved(place, std::find(order.begin(), order.end(), place.dim) - order.begin());
}

std::optional<SplitPlace> unsqueezed(const Step& step) {
  auto& place = own(step);
  return moved(place, place.dim + (*step.dim("dim", step.tensor(0).dim() + 1) <= place.dim));
}

std::optional<SplitPlace> squeezed(const Step& step) {
  auto& place = own(step);
  auto dims = step.dims("dim", step.tensor(0).dim());
  // A share of one element must not vanish: on the other ranks the dimension is there.
  if (!dims || std::count(dims->begin(), dims->end(), place.dim))
    step.refuse(fmt::format("may drop the split dimension {}; name other dimensions", place.dim));
  int64_t gone = 0;
  for (auto d : *dims) gone += d < place.dim && step.tensor(0).size(d) == 1;
  return moved(place, place.dim - gone);
}

/// Dimensions are added in front; none may grow where the split lies. One element for all, made as many as
/// the split ones by expand_as, is split like them.
std::optional<SplitPlace> expanded(const Step& step) {
  auto& self = step.tensor(0);
  if (auto* like = step.place(1); like && !step.place(0)) {
    auto d = like->dim - (step.tensor(1).dim() - self.dim());
    if (d < 0 || step.is_one(self, d, *like)) return *like;
  }
  auto& place = own(step);
  return moved(place, place.dim + step.outputs[0].dim() - step.tensor(0).dim());
}

/// repeat and tile: the numbers say it, also where there is nothing here to repeat.
std::optional<SplitPlace> repeated(const Step& step) {
  auto& place = own(step);
  auto* list = step.named("repeats");
  auto times = (list ? list : step.named("dims"))->toIntVector();
  auto i = static_cast<int64_t>(times.size()) - step.tensor(0).dim() + place.dim;
  if (i >= 0 && times[i] != 1)
    step.refuse(fmt::format("repeats dimension {}, which is split, on every rank", place.dim));
  return expanded(step);
}

/// Works along one dimension and leaves the others alone.
std::optional<SplitPlace> beside(const Step& step) {
  auto& place = own(step);
  auto dim = step.dim("dim", step.tensor(0).dim());
  if (!dim || *dim == place.dim)
    step.refuse(
        fmt::format("along dimension {}, which is split, needs the elements of other ranks", place.dim));
  return place;
}

std::optional<SplitPlace> beside_several(const Step& step) {
  auto& place = own(step);
  auto dims = step.dims("dims", step.tensor(0).dim());
  if (!dims || dims->empty() || std::count(dims->begin(), dims->end(), place.dim))
    step.refuse(
        fmt::format("along dimension {}, which is split, needs the elements of other ranks", place.dim));
  return place;
}

/// x[a:b] that would take everything of the whole is allowed along the split, too. That it does so of what is
/// here says nothing.
std::optional<SplitPlace> sliced(const Step& step) {
  auto& place = own(step);
  auto dim = step.dim("dim", step.tensor(0).dim());
  auto number = [&](const char* name, int64_t otherwise) {
    auto* value = step.named(name);
    return value && value->isInt() ? value->toInt() : otherwise;
  };
  const auto whole = place.before * place.total * place.after;
  const auto begin = number("start", 0), end = number("end", whole);
  bool all =
      !step.named("length") && (begin == 0 || begin <= -whole) && end >= whole && number("step", 1) == 1;
  if (*dim == place.dim && !all)
    step.refuse(fmt::format("takes part of dimension {}, which is split", place.dim));
  return place;
}

std::optional<SplitPlace> selected(const Step& step) {
  auto place = *beside(step);
  return moved(place, place.dim - (*step.dim("dim", step.tensor(0).dim()) < place.dim));
}

/// Tensors joined along another dimension than the split one, in which all must be split alike.
std::optional<SplitPlace> joined(const Step& step, bool new_dim) {
  auto tensors = step.op.inputs;
  const SplitPlace* first = nullptr;
  for (auto& x : tensors)
    if (!first) first = step.follow.of(x);
  for (auto& x : tensors) {
    auto* place = step.follow.of(x);
    if (!place) step.refuse("joins split tensors with one that is not split");
    if (*place != *first) step.refuse("joins tensors that are split differently");
  }
  auto dim = *step.dim("dim", tensors[0].dim() + new_dim);
  if (!new_dim && dim == first->dim)
    step.refuse(fmt::format(
        "joins along dimension {}, which is split: the parts would lie by rank, not in order", dim));
  return moved(*first, first->dim + (new_dim && dim <= first->dim));
}

std::optional<SplitPlace> concatenated(const Step& step) { return joined(step, false); }
std::optional<SplitPlace> stacked(const Step& step) { return joined(step, true); }

std::optional<SplitPlace> padded(const Step& step) {
  auto& place = own(step);
  auto pad = step.argument(1).toIntVector();
  auto i = 2 * (step.tensor(0).dim() - 1 - place.dim);
  if (i < static_cast<int64_t>(pad.size()) && (pad[i] || pad[i + 1]))
    step.refuse(fmt::format("pads dimension {}, which is split, on every rank", place.dim));
  return place;
}

/// The last dimension, of pairs, becomes one of complex numbers.
std::optional<SplitPlace> as_complex(const Step& step) {
  auto& place = own(step);
  if (place.dim == step.tensor(0).dim() - 1) step.refuse("takes the split dimension for pairs");
  return place;
}

/// Written over something that was made for it: a whole tensor, else what it is part of would not be known.
std::optional<SplitPlace> copied(const Step& step) {
  auto *from = step.place(1), *onto = step.place(0);
  auto& self = step.tensor(0);
  if (!from) return onto ? std::optional(*onto) : std::nullopt;
  auto place = moved(*from, from->dim + self.dim() - step.tensor(1).dim());
  if (onto && *onto != place) step.refuse("writes tokens over differently split ones");
  bool whole = self.storage().nbytes() == static_cast<size_t>(self.numel()) * self.element_size();
  if (!onto && !whole) step.refuse("writes split elements into a part of a tensor that is not split");
  return place;
}

}  // namespace

Rule rule_of_views(std::string_view name) {
  static const std::unordered_map<std::string_view, Rule> rules = {
      {"view", reshaped},
      {"reshape", reshaped},
      {"_unsafe_view", reshaped},
      {"_reshape_alias", reshaped},
      {"view_as", reshaped},
      {"reshape_as", reshaped},
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
      {"expand_as", expanded},
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
      {"cat", concatenated},
      {"concat", concatenated},
      {"stack", stacked},
      {"pad", padded},
      {"constant_pad_nd", padded},
      {"view_as_complex", as_complex},
      {"view_as_real", kept},
      {"copy", copied},
      {"contiguous", kept},
      {"clone", kept},
      {"detach", kept},
      {"alias", kept},
      {"to", kept},
      {"_to_copy", kept},
      {"type_as", kept_if_own},
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
