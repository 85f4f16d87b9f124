// Operators that join, cut, pad and reduce sequences of which each rank holds a part.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "module/linear_map.hpp"
#include "strategy/sequence_parallel/sequence_engine.hpp"

namespace wanpar {
namespace {

/// Where the tokens [begin, end) lie in what a rank holds.
std::vector<int64_t> places_of(const Ranges& held, int64_t begin, int64_t end) {
  std::vector<int64_t> places;
  int64_t at = 0;
  for (auto& range : held)
    for (auto token = range.begin; token < range.end; ++token, ++at)
      if (begin <= token && token < end) places.push_back(at);
  return places;
}

/// A view of an empty share that leaves a dimension free, which LibTorch cannot tell where there is nothing.
std::optional<std::vector<int64_t>> settled_sizes(const Step& step) {
  auto* sizes = step.named("size");
  if (!sizes) sizes = step.named("shape");
  auto* place = step.place(0);
  if (!sizes || !place || place->extent() > 0) return {};
  auto list = sizes->toIntVector();
  auto free = std::find(list.begin(), list.end(), -1);
  if (free == list.end() || !std::count(list.begin(), list.end(), 0)) return {};
  int64_t elements = place->before * place->after, given = 1;  // as if there were one token
  for (int64_t d = 0; d < step.dims(); ++d)
    if (d != place->dim) elements *= step.sizes[d];
  for (auto n : list)
    if (n > 0) given *= n;
  *free = elements / given;
  return list;
}

}  // namespace

/// Sequences one behind the other: each rank joins its tokens of all of them. One that is whole is shared
/// first.
std::optional<Tensors> SequenceEngine::joined(const Operator& op, const Next& next) {
  const auto dims = op.inputs[0].dim();
  auto dim = op.arguments[1].isInt() ? op.arguments[1].toInt() : 0;
  if (dim < 0) dim += dims;
  bool is_along = false;
  for (auto& x : op.inputs) {
    if (x.dim() != dims) return {};
    auto* place = pass_.follow.of(x);
    if (place && place->dim != dim) return {};
    is_along |= place != nullptr;
  }
  if (!is_along) return {};
  pass_.path.reaches_over = true;
  std::vector<TokenLayout> parts;
  std::vector<CutInput> cuts;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    if (auto* place = pass_.follow.of(op.inputs[i])) {
      parts.push_back(layout_of(*place));
      continue;
    }
    parts.push_back(layout_for(op.inputs[i].size(dim)));
    cuts.push_back({i, dim, place_in(parts.back(), dim)});
  }
  auto outputs = next(meeting_whole(op, cuts));
  pass_.follow.mark(outputs[0], place_in(TokenLayout::joined(parts), dim));
  return outputs;
}

/// The ends of the sequence are the first rank's and the last one's.
std::optional<Tensors> SequenceEngine::padded(const Operator& op, const OperatorFacts& facts,
                                              const Next& next) {
  const auto place = *pass_.follow.of(op.inputs[0]);
  auto pad = op.arguments[1].toIntVector();
  auto i = 2 * (op.inputs[0].dim() - 1 - place.dim);
  if (i >= static_cast<int64_t>(pad.size())) return {};
  // Asked whatever they are here: another rank, or another pass, may have some where this one has none.
  if (auto arguments = as_on_one_rank(op, facts, true)) pad = (*arguments)[1].toIntVector();
  const auto layout = layout_of(place);
  if ((pad[i] == 0 && pad[i + 1] == 0) || !layout.is_in_order() || pad[i] < 0 || pad[i + 1] < 0) return {};
  pass_.path.reaches_over = true;
  auto lengths = layout.lengths();
  lengths.front() += pad[i], lengths.back() += pad[i + 1];
  if (group_.rank() != 0) pad[i] = 0;
  if (group_.rank() != group_.size() - 1) pad[i + 1] = 0;
  auto here = op;
  here.compute = [pad, value = op.arguments[2].toScalar()](const Tensors& inputs) {
    return Tensors{at::constant_pad_nd(inputs[0], pad, value)};
  };
  auto outputs = next(here);
  pass_.follow.mark(outputs[0], place_in(layout.with_lengths(lengths), place.dim));
  return outputs;
}

/// The tokens [begin, end) of x: split where every rank has some of them, else whole.
at::Tensor SequenceEngine::piece(const at::Tensor& x, const SplitPlace& place, int64_t begin, int64_t end) {
  const auto layout = layout_of(place), rest = layout.part(begin, end);
  const auto places = places_of(group_.mine(layout), begin, end);
  bool is_run = places.empty() || places.back() - places.front() + 1 == static_cast<int64_t>(places.size());
  auto mine = is_run
                  ? x.narrow(place.dim, places.empty() ? 0 : places[0], static_cast<int64_t>(places.size()))
                  : x.index_select(place.dim, at::tensor(places, at::kLong).to(x.device()));
  bool is_everywhere = true;
  for (int r = 0; r < rest.size(); ++r) is_everywhere &= length(rest.of(r)) > 1;
  if (!is_everywhere) {
    auto whole = together([&] { return fmt::format("tokens {} to {} of {}", begin, end, layout.total()); },
                          [&] { return group_.unsplit(mine, place.dim, rest); });
    pass_.follow.mark_copy(whole, {{x}});
    return whole;
  }
  if (!is_run) pass_.follow.mark_copy(mine, {{x}});
  pass_.follow.mark(mine, place_in(rest, place.dim));
  return mine;
}

std::optional<Tensors> SequenceEngine::part(const Operator& op, const OperatorFacts& facts,
                                            const Next& next) {
  auto* found = pass_.follow.of(op.inputs[0]);
  if (!found) return {};
  const auto place = *found;
  const auto dims = op.inputs[0].dim();
  const Step step{pass_.follow, op, at::DimVector(op.inputs[0].sizes()), {}};
  auto dim = step.dim("dim", dims);
  if (!dim || *dim != place.dim || step.named("out")) return {};
  auto arguments = as_on_one_rank(op, facts, true);
  const auto one = arguments ? with_arguments(op, std::move(*arguments)) : op;
  const Step whole{pass_.follow, one, {}, {}};
  const auto total = place.whole_extent();
  auto number = [&](const char* name, int64_t otherwise) {
    auto* value = whole.named(name);
    auto n = value && value->isInt() ? value->toInt() : otherwise;
    return n < 0 ? n + total : n;
  };
  auto clamped = [&](int64_t n) { return std::clamp<int64_t>(n, 0, total); };

  pass_.path.reaches_over = true;
  std::function<Tensors(const at::Tensor&)> pieces;
  if (op.name == "aten::slice") {
    if (number("step", 1) != 1) return unsharded(op, facts, next);
    const auto begin = clamped(number("start", 0)), end = std::max(begin, clamped(number("end", total)));
    pieces = [=, this](const at::Tensor& x) { return Tensors{piece(x, place, begin, end)}; };
  } else if (op.name == "aten::narrow") {
    if (!whole.named("start")->isInt()) return unsharded(op, facts, next);
    const auto begin = number("start", 0), end = begin + whole.named("length")->toInt();
    if (begin < 0 || end > total) return unsharded(op, facts, next);  // LibTorch's own error
    pieces = [=, this](const at::Tensor& x) { return Tensors{piece(x, place, begin, end)}; };
  } else if (op.name == "aten::select") {
    const auto index = number("index", 0);
    if (index < 0 || index >= total) return unsharded(op, facts, next);
    pieces = [=, this](const at::Tensor& x) {
      auto token = piece(x, place, index, index + 1).select(place.dim, 0);
      pass_.follow.mark_copy(token, {{x}});
      return Tensors{token};
    };
  } else {
    const auto sizes = whole.named("split_sizes")->toIntVector();
    if (total != std::accumulate(sizes.begin(), sizes.end(), int64_t{0})) return unsharded(op, facts, next);
    pieces = [=, this](const at::Tensor& x) {
      Tensors all;
      int64_t begin = 0;
      for (auto size : sizes) {
        all.push_back(piece(x, place, begin, begin + size));
        begin += size;
      }
      return all;
    };
  }
  auto here = op;
  here.compute = [&](const Tensors& inputs) { return pieces(inputs[0]); };
  return next(here);
}

/// Over split tokens: of each rank's own, and then of what the ranks have.
std::optional<Tensors> SequenceEngine::reduced(const Operator& op, const Next& next) {
  auto* found = pass_.follow.of(op.inputs[0]);
  const Step step{pass_.follow, op, at::DimVector(op.inputs[0].sizes()), {}};
  if (!found || step.named("out") || step.op.inputs.size() != 1) return {};
  const auto place = *found;
  auto dims = step.dim_list("dim", step.dims()).value_or(std::vector<int64_t>{});
  if (dims.empty())
    for (int64_t d = 0; d < step.dims(); ++d) dims.push_back(d);
  if (!std::count(dims.begin(), dims.end(), place.dim)) return {};
  auto* keep_argument = step.named("keepdim");
  const bool keep = keep_argument && keep_argument->toBool();
  pass_.path.reaches_over = true;
  auto way = [&] { return fmt::format("{} over split {}", op.name, place.split); };

  auto here = op;
  here.compute = [&](const Tensors& inputs) {
    auto& x = inputs[0];
    if (op.name == "aten::sum") {
      auto mine = op.compute(inputs)[0];
      return Tensors{together(way, [&] { return group_.total(mine); })};
    }
    if (op.name == "aten::mean") {
      int64_t count = 1;
      for (auto d : dims) count *= d == place.dim ? place.whole_extent() : x.size(d);
      auto* given = step.named("dtype");
      const auto dtype = given && given->isInt() ? given->toScalarType() : x.scalar_type();
      const auto wide = dtype == at::kHalf || dtype == at::kBFloat16 ? at::kFloat : dtype;
      auto mine = at::sum(x, dims, keep, wide);
      return Tensors{together(way, [&] { return group_.total(mine); }).div(count).to(dtype)};
    }
    const bool is_max = op.name == "aten::amax";
    auto signed_x = is_max ? x : x.neg();
    auto low = x.is_floating_point() ? c10::Scalar(-std::numeric_limits<double>::infinity())
                                     : c10::Scalar(std::numeric_limits<int32_t>::min());
    auto mine =
        place.extent() > 0 ? at::amax(signed_x, dims, true) : at::full_like(signed_x.sum(dims, true), low);
    auto greatest = together(way, [&] { return group_.greatest(mine.detach()); });
    auto result = greatest;
    if (wants_gradient({x})) {
      // The elements that are the greatest share its gradient, as LibTorch has it.
      auto is_it = signed_x.detach().eq(greatest);
      auto count = group_.sum(is_it.to(at::kFloat).sum(dims, true));
      result = group_.total(at::where(is_it, signed_x, 0).sum(dims, true)) / count.to(x.scalar_type());
    }
    if (!is_max) result = result.neg();
    return Tensors{keep ? result : result.squeeze(dims)};
  };
  return next(here);
}

std::optional<Tensors> SequenceEngine::settled(const Operator& op, const Next& next) {
  const Step step{pass_.follow, op, at::DimVector(op.inputs[0].sizes()), {}};
  auto sizes = settled_sizes(step);
  if (!sizes) return {};
  auto here = op;
  here.compute = [sizes](const Tensors& inputs) { return Tensors{inputs[0].reshape(*sizes)}; };
  return next(here);
}

}  // namespace wanpar
