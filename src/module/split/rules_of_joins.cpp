// Concatenation and padding.
#include <ATen/ATen.h>

#include "module/split/rules.hpp"

namespace wanpar {
namespace {

/// Concatenation along a dimension that is not sharded; all tensors must be sharded alike.
bool joined_beside(SplitCall& call, const std::vector<at::Tensor>& tensors, const SplitPlacement& place,
                   const SplitPlacement& result) {
  std::vector<at::Tensor> parts;
  for (auto& x : tensors) {
    if (x.dim() <= place.dim || x.size(place.dim) != place.global_extent()) return false;
  }
  for (auto& x : tensors) parts.push_back(call.part(x, place));
  call.give(0, parts);
  return call.run({{OutputPlacement::sharded, result}});
}

const SplitPlacement& first_place(const std::vector<at::Tensor>& tensors) {
  for (auto& x : tensors)
    if (auto* place = placement_of(x)) return *place;
  return *placement_of(tensors[0]);
}

/// Concatenation of sequences: each rank holds its tokens of all of them.
bool joined_along(SplitCall& call, const std::vector<at::Tensor>& tensors, const SplitPlacement& first) {
  std::vector<TokenLayout> layouts;
  std::vector<SplitPlacement> places;
  for (auto& x : tensors) {
    if (x.dim() != tensors[0].dim()) return false;
    auto* place = placement_of(x);
    if (place && (place->dim != first.dim || place->is_merged())) return false;
    auto own = first;
    own.layout =
        place ? place->layout : std::make_shared<TokenLayout>(call.group().layout(x.size(first.dim)));
    layouts.push_back(*own.layout);
    places.push_back(own);
  }
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < tensors.size(); ++i) parts.push_back(call.part(tensors[i], places[i]));
  auto result = first;
  result.layout = std::make_shared<TokenLayout>(TokenLayout::joined(layouts));
  call.give(0, parts);
  return call.run({{OutputPlacement::sharded, result}});
}

bool joined(SplitCall& call) {
  auto tensors = call.argument(0).toTensorVector();
  std::erase_if(tensors,
                [](auto& x) { return x.dim() == 1 && x.numel() == 0; });  // LibTorch skips those, too
  const auto first = first_place(tensors);
  const auto dim = *call.dim("dim", tensors[0].dim());
  if (dim == first.dim) return joined_along(call, tensors, first);
  return joined_beside(call, tensors, first, first);
}

bool stacked(SplitCall& call) {
  const auto tensors = call.argument(0).toTensorVector();
  const auto first = first_place(tensors);
  const auto dim = *call.dim("dim", tensors[0].dim() + 1);
  return joined_beside(call, tensors, first, first.at(first.dim + (dim <= first.dim)));
}

/// The layout of padding at the front or back: on the rank at that end if it is no longer than its shard, so
/// that tokens stay in order for halo exchanges; over all ranks otherwise.
TokenLayout layout_of_padding(const SplitGroup& group, const TokenLayout& tokens, int64_t more,
                              bool in_front) {
  const auto lengths = tokens.lengths();
  const auto end = in_front ? 0 : lengths.size() - 1;
  if (!tokens.is_in_order() || more > lengths[end]) return group.layout(more);
  std::vector<int64_t> of_end(lengths.size(), 0);
  of_end[end] = more;
  return tokens.with_lengths(of_end);
}

/// constant_pad_nd(x, pad, value): padding of the sharded dimension is a concatenation; a negative one
/// slices.
bool padded(SplitCall& call) {
  const auto place = *call.place(0);
  auto pad = call.argument(1).toIntVector();
  auto& x = call.tensor(0);
  const auto i = 2 * static_cast<size_t>(x.dim() - 1 - place.dim);
  call.give_own_part(0);
  if (i >= pad.size() || (pad[i] == 0 && pad[i + 1] == 0))
    return call.run({{OutputPlacement::sharded, place}});
  const auto front = pad[i], behind = pad[i + 1];
  if (place.is_merged() || place.total() + std::min<int64_t>(front, 0) + std::min<int64_t>(behind, 0) < 1)
    return false;
  pad[i] = pad[i + 1] = 0;
  call.give(1, pad);
  auto inner = call.ran()[0].toTensor();
  // Negative padding.
  const auto begin = std::max<int64_t>(0, -front), end = place.total() - std::max<int64_t>(0, -behind);
  const auto kept = place.part(begin, end);
  std::vector<at::Tensor> parts{inner.narrow(place.dim, kept.first, kept.count)};
  std::vector<TokenLayout> layouts{*kept.place.layout};
  auto add = [&](int64_t more, bool in_front) {
    if (more <= 0) return;
    auto layout = layout_of_padding(call.group(), *place.layout, more, in_front);
    auto sizes = inner.sizes().vec();
    sizes[place.dim] = length(layout.of(place.rank));
    auto filled = at::full(sizes, call.argument(2).toScalar(), inner.options());
    parts.insert(in_front ? parts.begin() : parts.end(), filled);
    layouts.insert(in_front ? layouts.begin() : layouts.end(), layout);
  };
  add(front, true);
  add(behind, false);
  auto result = place;
  result.layout = std::make_shared<TokenLayout>(TokenLayout::joined(layouts));
  return call.result({at::cat(parts, place.dim)}, {{OutputPlacement::sharded, result}});
}

}  // namespace

const SplitRules& rules_of_joins() {
  static const SplitRules rules = {
      {"cat", joined},
      {"stack", stacked},
      {"constant_pad_nd", padded},
  };
  return rules;
}

}  // namespace wanpar
