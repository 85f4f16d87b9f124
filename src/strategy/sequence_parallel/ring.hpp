#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/attention.hpp>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Attention of this rank's queries to all keys of a ring, each rank holding those that `held` says. The next
/// part travels while this one is attended to; parts are merged by their weights, in float32 or better. The
/// call is prepared and has one batch dimension; a mask holds this rank's queries, or one row for all, and
/// all columns in the order of the sequence, or one for all.
///
/// Gradients take a second pass around the ring with the merged result and weights: LibTorch's own
/// log-sum-exp has no gradient, so that autograd's way through the merge would be wrong without an error.
at::Tensor ring_attention(const Communicator& ring, Attention call, const std::vector<Ranges>& held);

}  // namespace wanpar
