#pragma once
#include <functional>
#include <optional>
#include <span>

#include <wanpar/module/interceptor.hpp>

#include "module/follow/follow.hpp"

namespace wanpar {

/// A group norm, or an instance norm of its own statistics, over split tokens.
struct SplitNorm {
  SplitPlace place;
  int64_t groups;
  double eps;
  bool has_weight, has_bias;  // [channels], behind x among the operator's inputs
};

/// None for any other operator, and where the split lies along the samples or the channels.
std::optional<SplitNorm> split_norm(const Follow& follow, const Operator& op);

/// The norm of this rank's tokens, the first of `inputs` [samples, channels, …], by the statistics of all;
/// `summed` gives the sum of a tensor over the ranks.
at::Tensor normalized(const SplitNorm& norm, std::span<const at::Tensor> inputs,
                      const std::function<at::Tensor(at::Tensor)>& summed);

}  // namespace wanpar
