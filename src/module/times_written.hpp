#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// How often x has been written to, by LibTorch's count; inference tensors have none.
inline int64_t times_written(const at::Tensor& x) {
  return x.defined() && !x.is_inference() ? x._version() : 0;
}

/// Of each.
std::vector<int64_t> times_written(const NamedTensors& tensors);

/// Throws Error where a module's forward has written to a parameter that every rank holds: each rank by its
/// own samples. `before`: how often each had been written to before it; `strategy` begins the sentence.
void refuse_written(const std::string& strategy, const NamedTensors& parameters,
                    const std::vector<int64_t>& before);

}  // namespace wanpar
