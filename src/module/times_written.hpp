#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// The version counter of x; 0 for inference tensors, which have none.
inline int64_t times_written(const at::Tensor& x) {
  return x.defined() && !x.is_inference() ? x._version() : 0;
}

/// The version counter of each tensor.
std::vector<int64_t> times_written(const NamedTensors& tensors);

/// Throws Error if a module's forward has written to a replicated parameter, which would then differ by rank.
/// `before`: the version counters before the forward; `strategy` starts the message.
void refuse_written(const std::string& strategy, const NamedTensors& parameters,
                    const std::vector<int64_t>& before);

}  // namespace wanpar
