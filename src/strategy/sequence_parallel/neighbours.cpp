#include "strategy/sequence_parallel/neighbours.hpp"

#include <algorithm>
#include <array>

#include "module/follow/rules.hpp"

namespace wanpar {

std::optional<SplitConvolution> split_convolution(const Follow& follow, const Operator& op) {
  constexpr std::array<std::string_view, 5> names{"aten::conv1d", "aten::conv2d", "aten::conv3d",
                                                  "aten::convolution", "aten::_convolution"};
  if (std::find(names.begin(), names.end(), op.name) == names.end()) return {};
  const Step step{follow, op, {}};
  auto* place = step.place(0);
  if (!place || step.place(1) || place->before * place->after != 1) return {};
  if (auto* transposed = step.named("transposed"); transposed && transposed->toBool()) return {};

  auto& weight = step.tensor(1);
  auto dim = place->dim + weight.dim() - step.tensor(0).dim();  // without a batch
  if (dim < 2) return {};
  auto reach = (weight.size(dim) - 1) * step.along("dilation", dim);
  if (reach == 0 || step.along("stride", dim) != 1) return {};
  auto* padding = step.named("padding");
  bool is_same = padding->isString() && padding->toStringRef() == "same";
  auto left = is_same ? reach / 2 : step.along("padding", dim);
  if (!is_same && 2 * left != reach) return {};
  return SplitConvolution{*place, left, reach - left};
}

}  // namespace wanpar
