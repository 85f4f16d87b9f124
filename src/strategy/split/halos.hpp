#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Collective. Halo exchange between neighbours: this rank's shard with the `left` tokens before and the
/// `right` tokens after it; zeros beyond the sequence. Shards must lie in order.
at::Tensor with_halos(const Communicator& ranks, const at::Tensor& part, int64_t dim,
                      const TokenLayout& layout, int64_t left, int64_t right);

}  // namespace wanpar
