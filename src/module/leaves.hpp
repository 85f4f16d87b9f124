#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace wanpar {

/// The leaf tensors that need a gradient and that `results` depend on, other than through `arguments`.
std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& results,
                                  const std::vector<at::Tensor>& arguments);

}  // namespace wanpar
