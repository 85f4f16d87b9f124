// Convolutions: along split places, ranks look at their neighbours' tokens.
#include <ATen/ATen.h>

#include "module/split/convolved_shares.hpp"
#include "module/split/rules.hpp"

namespace wanpar {
namespace {

/// The arguments of convolution, and of convolution_backward behind its gradient and beside its bias.
struct Numbers {
  std::vector<int64_t> stride, padding, dilation;
  bool is_transposed;

  Numbers(const SplitCall& call, size_t first, size_t dims)
      : stride(call.argument(first).toIntVector()),
        padding(call.argument(first + 1).toIntVector()),
        dilation(call.argument(first + 2).toIntVector()),
        is_transposed(call.argument(first + 3).toBool()) {
    for (auto* each : {&stride, &padding, &dilation})
      if (each->size() == 1) each->resize(dims - 2, each->front());  // one for all
  }
};

/// A convolution along a split dimension, each step of which is one token.
struct AlongTokens {
  SplitPlace place, result;
  ConvolvedShares shares;
  int64_t dim;
  TokenLayout layout;

  const ConvolvedShares::Share& mine() const { return shares.of_rank[place.rank]; }
  bool has_results() const { return shares.lengths[place.rank] > 0; }
  at::Tensor with_neighbours(const SplitGroup& group, const at::Tensor& part) const {
    return group.with_neighbours(part, dim, layout, shares.left, shares.right)
        .narrow(dim, mine().skipped, mine().needed);
  }
};

bool is_each_for_itself(const SplitPlace& place, const at::Tensor& weight, const Numbers& numbers) {
  if (place.dim == 0) return true;
  const auto d = place.dim - 2;
  return place.dim > 1 && weight.size(place.dim) == 1 && numbers.stride[d] == 1 && numbers.padding[d] == 0 &&
         !numbers.is_transposed;
}

std::optional<AlongTokens> along_tokens(const SplitPlace& place, const at::Tensor& weight,
                                        const Numbers& numbers) {
  if (place.dim < 2 || place.is_merged() || numbers.is_transposed || !place.layout->is_in_order()) return {};
  const auto d = place.dim - 2;
  if (numbers.stride[d] != 1) return {};
  const auto reach = (weight.size(place.dim) - 1) * numbers.dilation[d], padding = numbers.padding[d];
  const auto results = place.total() + 2 * padding - reach;
  if (results < 1) return {};
  auto shares = convolved_shares({padding, reach, results}, *place.layout);
  auto result = place;
  result.layout = std::make_shared<TokenLayout>(place.layout->with_lengths(shares.lengths));
  return AlongTokens{place, std::move(result), std::move(shares), place.dim, *place.layout};
}

bool convolution(SplitCall& call) {
  if (!call.place(0) || call.place(1) || call.place(2)) return false;
  const auto place = *call.place(0);
  auto& weight = call.tensor(1);
  Numbers numbers(call, 3, weight.dim());
  if (is_each_for_itself(place, weight, numbers)) {
    call.give_own_part(0);
    return call.run({{Given::parts, place}});
  }
  const auto along = along_tokens(place, weight, numbers);
  if (!along) return false;
  auto x = along->with_neighbours(call.group(), as_split(call.tensor(0))->part());
  numbers.padding[place.dim - 2] = 0;
  if (along->has_results()) {
    call.give(0, x);
    call.give(4, numbers.padding);
    return call.run({{Given::parts, along->result}});
  }
  auto sizes = x.sizes().vec();
  sizes[1] = weight.size(0);
  for (size_t d = 2; d < sizes.size(); ++d)
    sizes[d] = (sizes[d] + 2 * numbers.padding[d - 2] - (weight.size(d) - 1) * numbers.dilation[d - 2] - 1) /
                   numbers.stride[d - 2] +
               1;
  sizes[place.dim] = 0;
  return call.result({x.new_empty(sizes)}, {{Given::parts, along->result}});
}

/// convolution_backward(gradient, x, weight, bias sizes, stride, padding, dilation, …, mask)
bool convolution_backward(SplitCall& call) {
  auto* found = call.place(1) ? call.place(1) : nullptr;
  if (!found || call.place(2)) return false;
  const auto place = *found;
  auto& weight = call.tensor(2);
  Numbers numbers(call, 4, weight.dim());
  if (is_each_for_itself(place, weight, numbers)) {
    call.give_part(0, place);
    call.give_own_part(1);
    return call.run({{Given::parts, place}, {Given::addends}});
  }
  const auto along = along_tokens(place, weight, numbers);
  if (!along) return false;
  auto part = as_split(call.tensor(1))->part();
  auto x = along->with_neighbours(call.group(), part);
  auto extended = at::zeros(
      [&] {
        auto sizes = part.sizes().vec();
        sizes[place.dim] += along->shares.left + along->shares.right;
        return sizes;
      }(),
      part.options());
  const auto mask = call.argument(10).toBoolList();
  at::Tensor of_weight, of_bias;
  auto gradient = call.part(call.tensor(0), along->result);
  if (along->has_results()) {
    numbers.padding[place.dim - 2] = 0;
    call.give(0, gradient);
    call.give(1, x);
    call.give(5, numbers.padding);
    auto found = call.ran();
    if (mask[0])
      extended.narrow(place.dim, along->mine().skipped, along->mine().needed).copy_(found[0].toTensor());
    of_weight = found[1].toTensor(), of_bias = found[2].toTensor();
  } else {
    if (mask[1]) of_weight = at::zeros_like(weight);
    if (mask[2]) of_bias = weight.new_zeros({weight.size(0)});
  }
  at::Tensor of_x;
  if (mask[0])
    of_x = call.group().added_to_neighbours(extended, place.dim, along->layout, along->shares.left,
                                            along->shares.right);
  return call.result({of_x, of_weight, of_bias}, {{Given::parts, place}, {Given::addends}});
}

}  // namespace

const SplitRules& rules_of_convolutions() {
  static const SplitRules rules = {{"convolution", convolution},
                                   {"convolution_backward", convolution_backward}};
  return rules;
}

}  // namespace wanpar
