#pragma once
#include <functional>
#include <optional>

#include "module/follow/follow.hpp"

namespace wanpar {

/// A group norm, or an instance norm of its own statistics, over split tokens.
struct SplitNorm {
  SplitPlace place;
  int64_t groups;
  double eps;
};

/// None for any other operator, and where the split lies along the samples or the channels.
std::optional<SplitNorm> split_norm(const Follow& follow, const Operator& op);

/// The norm of this rank's tokens x [samples, channels, …] by the statistics of all: `summed` gives the sum
/// of a tensor over the ranks, `weight` and `bias` are [channels] or undefined.
at::Tensor normalized(const SplitNorm& norm, const at::Tensor& x, const at::Tensor& weight,
                      const at::Tensor& bias, const std::function<at::Tensor(at::Tensor)>& summed);

}  // namespace wanpar
