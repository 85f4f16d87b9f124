// Convolutions: along sharded dimensions, by a halo exchange.
#include <ATen/ATen.h>

#include "module/split/along_tokens.hpp"
#include "module/split/rules.hpp"

namespace wanpar {
namespace {

/// The common arguments of convolution and convolution_backward.
struct Numbers {
  std::vector<int64_t> stride, padding, dilation;
  bool is_transposed;

  Numbers(const SplitCall& call, size_t first, size_t dims)
      : stride(call.argument(first).toIntVector()),
        padding(call.argument(first + 1).toIntVector()),
        dilation(call.argument(first + 2).toIntVector()),
        is_transposed(call.argument(first + 3).toBool()) {
    for (auto* each : {&stride, &padding, &dilation})
      if (each->size() == 1) each->resize(dims - 2, each->front());  // one value for all dimensions
  }
};

bool is_each_for_itself(const SplitPlacement& place, const at::Tensor& weight, const Numbers& numbers) {
  if (place.dim == 0) return true;
  const auto d = place.dim - 2;
  return place.dim > 1 && weight.size(place.dim) == 1 && numbers.stride[d] == 1 && numbers.padding[d] == 0 &&
         !numbers.is_transposed;
}

/// LibTorch rejects convolutions of tensors without spatial elements.
bool is_nothing(const SplitPlacement& place) { return place.dim > 1 && place.extent() == 0; }

std::optional<AlongTokens> along_tokens(const SplitPlacement& place, const at::Tensor& weight,
                                        const Numbers& numbers) {
  if (place.dim < 2 || numbers.is_transposed) return {};
  const auto d = place.dim - 2;
  const auto reach = (weight.size(place.dim) - 1) * numbers.dilation[d], padding = numbers.padding[d];
  const auto room = place.total() + 2 * padding - reach - 1;
  if (room < 0) return {};
  return along_tokens(place, {padding, reach, numbers.stride[d], room / numbers.stride[d] + 1});
}

bool convolution(SplitCall& call) {
  if (!call.place(0) || call.place(1) || call.place(2)) return false;
  const auto place = *call.place(0);
  const auto& part = as_split(call.tensor(0))->part();
  auto& weight = call.tensor(1);
  Numbers numbers(call, 3, weight.dim());
  if (is_each_for_itself(place, weight, numbers)) {
    if (is_nothing(place))
      return call.result(call.ran_for_none(part, place.dim, 1), {{OutputPlacement::sharded, place}});
    call.give_own_part(0);
    return call.run({{OutputPlacement::sharded, place}});
  }
  const auto along = along_tokens(place, weight, numbers);
  if (!along) return false;
  const auto x = along->with_halo(call.group(), part);
  numbers.padding[place.dim - 2] = 0;
  call.give(4, numbers.padding);
  if (!along->has_results()) {
    const auto window = (weight.size(place.dim) - 1) * numbers.dilation[place.dim - 2] + 1;
    return call.result(call.ran_for_none(x, place.dim, window),
                       {{OutputPlacement::sharded, along->result()}});
  }
  call.give(0, x);
  return call.run({{OutputPlacement::sharded, along->result()}});
}

/// convolution_backward(gradient, x, weight, bias sizes, stride, padding, dilation, …, mask)
bool convolution_backward(SplitCall& call) {
  if (!call.place(1) || call.place(2)) return false;
  const auto place = *call.place(1);
  const auto& part = as_split(call.tensor(1))->part();
  auto& weight = call.tensor(2);
  Numbers numbers(call, 4, weight.dim());
  const auto mask = call.argument(10).toBoolList();
  const std::initializer_list<OutputPlacement> given{{OutputPlacement::sharded, place},
                                                     {OutputPlacement::partial_sum}};
  // For ranks without results.
  auto zeros = [&] {
    const at::Tensor none;
    return torch::jit::Stack{mask[0] ? at::zeros_like(part) : none, mask[1] ? at::zeros_like(weight) : none,
                             mask[2] ? weight.new_zeros({weight.size(0)}) : none};
  };
  if (is_each_for_itself(place, weight, numbers)) {
    call.give_part(0, place);
    if (is_nothing(place)) return call.result(zeros(), given);
    call.give_own_part(1);
    return call.run(given);
  }
  const auto along = along_tokens(place, weight, numbers);
  if (!along) return false;
  auto x = along->with_halo(call.group(), part);
  auto gradient = call.part(call.tensor(0), along->result());
  auto found = zeros();
  auto sizes = part.sizes().vec();
  sizes[place.dim] += along->shares().left + along->shares().right;
  auto extended = at::zeros(sizes, part.options());
  if (along->has_results()) {
    numbers.padding[place.dim - 2] = 0;
    call.give(0, gradient);
    call.give(1, x);
    call.give(5, numbers.padding);
    found = call.ran();
    if (mask[0])
      extended.narrow(place.dim, along->mine().skipped, along->mine().needed).copy_(found[0].toTensor());
  }
  if (mask[0])
    found[0] = call.group().accumulate_halo(extended, place.dim, *place.layout, along->shares().left,
                                            along->shares().right);
  return call.result(std::move(found), given);
}

}  // namespace

const SplitRules& rules_of_convolutions() {
  static const SplitRules rules = {{"convolution", convolution},
                                   {"_convolution", convolution},
                                   {"convolution_backward", convolution_backward}};
  return rules;
}

}  // namespace wanpar
