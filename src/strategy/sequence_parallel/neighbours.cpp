#include "strategy/sequence_parallel/neighbours.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "module/follow/rules.hpp"

namespace wanpar {
namespace {

std::vector<int64_t> spread(const c10::IValue& value, int64_t dims) {
  auto each = value.toIntVector();
  if (each.size() == 1) each.resize(dims, each[0]);
  return each;
}

}  // namespace

std::optional<SplitConvolution> split_convolution(const Follow& follow, const Operator& op) {
  const Step step{follow, op, {}, {}};
  auto* place = step.place(0);
  if (!place || step.place(1) || place->before * place->after != 1) return {};
  if (auto* transposed = step.named("transposed"); transposed && transposed->toBool()) return {};

  auto& weight = step.tensor(1);
  auto dim = place->dim + weight.dim() - step.tensor(0).dim();  // without a batch
  if (dim < 2 || step.along("stride", dim) != 1) return {};
  const auto reach = (weight.size(dim) - 1) * step.along("dilation", dim);
  auto* padding = step.named("padding");
  bool is_same = padding->isString() && padding->toStringRef() == "same";
  const auto left = is_same ? reach / 2 : padding->isString() ? 0 : step.along("padding", dim);
  if (reach == 0 && left == 0) return {};  // each token for itself
  const auto total = is_same ? place->total : place->total + 2 * left - reach;
  if (total < 1) return {};
  return SplitConvolution{*place, left, reach, total};
}

ConvolvedShares convolved_shares(const SplitConvolution& c, const TokenLayout& layout) {
  ConvolvedShares shares;
  const auto lost = std::max<int64_t>(0, layout.total() - c.total);
  int64_t begin = 0, first = 0;  // of this rank's tokens, and of its results
  std::vector<int64_t> before, behind;
  std::vector<int64_t> needed;
  for (int r = 0; r < layout.size(); ++r) {
    const auto end = begin + length(layout.of(r));
    const bool is_last = r + 1 == layout.size();
    const auto last = is_last ? c.total : std::max(first, std::min(c.total, end - lost));
    const auto from = first - c.padding, to = last - c.padding + (last > first ? c.reach : 0);
    before.push_back(begin - from), behind.push_back(to - end),
        needed.push_back(std::max<int64_t>(0, to - from));
    shares.lengths.push_back(last - first);
    begin = end, first = last;
  }
  shares.left = std::max<int64_t>(0, *std::max_element(before.begin(), before.end()));
  shares.right = std::max<int64_t>(0, *std::max_element(behind.begin(), behind.end()));
  for (size_t r = 0; r < before.size(); ++r) shares.of_rank.push_back({shares.left - before[r], needed[r]});
  return shares;
}

std::function<at::Tensor(const Tensors&)> without_padding(const Operator& op, const SplitConvolution& c) {
  const Follow none;
  const Step step{none, op, {}, {}};
  const auto dims = step.tensor(1).dim() - 2;
  const auto split = c.place.dim + step.tensor(1).dim() - step.tensor(0).dim() - 2;
  auto stride = spread(*step.named("stride"), dims), dilation = spread(*step.named("dilation"), dims);
  std::vector<int64_t> padding(dims, 0);
  std::vector<int64_t> before, behind;  // what "same" pads along the other dimensions
  for (int64_t d = 0; d < dims; ++d) {
    auto* given = step.named("padding");
    const auto reach = (step.tensor(1).size(d + 2) - 1) * dilation[d];
    if (given->isString())
      before.push_back(given->toStringRef() == "same" ? reach / 2 : 0),
          behind.push_back(given->toStringRef() == "same" ? reach - reach / 2 : 0);
    else
      before.push_back(spread(*given, dims)[d]), behind.push_back(before.back());
    if (d == split) before.back() = behind.back() = 0;
  }
  std::vector<int64_t> pad;
  for (auto d = dims; d-- > 0;) pad.insert(pad.end(), {before[d], behind[d]});
  const bool is_uneven = before != behind;
  if (!is_uneven) padding = before;
  const auto groups = step.named("groups")->toInt();
  const bool has_batch = step.tensor(0).dim() == step.tensor(1).dim();
  return [=](const Tensors& inputs) {
    auto x = has_batch ? inputs[0] : inputs[0].unsqueeze(0);
    if (is_uneven) x = at::constant_pad_nd(x, pad);
    auto bias = inputs.size() > 2 ? std::optional(inputs[2]) : std::nullopt;
    if (x.size(split + 2) == 0) {  // no result here, and yet a part of the graph
      auto shape = x.sizes().vec();
      shape[1] = inputs[1].size(0);
      for (int64_t d = 0; d < dims; ++d)
        if (d != split)
          shape[d + 2] =
              (shape[d + 2] + 2 * padding[d] - (inputs[1].size(d + 2) - 1) * dilation[d] - 1) / stride[d] + 1;
      auto nothing =
          at::zeros(shape, x.options()) + 0 * (x.sum() + inputs[1].sum() + (bias ? bias->sum() : x.sum()));
      return has_batch ? nothing : nothing.squeeze(0);
    }
    auto y = at::convolution(x, inputs[1], bias, stride, padding, dilation, false,
                             std::vector<int64_t>(dims, 0), groups);
    return has_batch ? y : y.squeeze(0);
  };
}

}  // namespace wanpar
