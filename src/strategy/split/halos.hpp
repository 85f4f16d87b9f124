#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Collective. This rank's share with the `left` tokens before and the `right` ones behind it, zeros beyond
/// the sequence; each token goes to those alone whose share it lies beside. Shares lie in order.
at::Tensor with_halos(const Communicator& ranks, const at::Tensor& part, int64_t dim,
                      const TokenLayout& layout, int64_t left, int64_t right);

}  // namespace wanpar
