#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/attention.hpp>

#include "strategy/sequence_parallel/token_layout.hpp"

namespace wanpar {

/// Attention of this rank's queries to all keys of a ring, each rank holding those that `held` says. The next
/// part travels while this one is attended to; parts are merged by their log-sum-exp, in float32 or better.
/// A mask holds this rank's queries, or one row for all, and all columns in the order of the sequence.
///
/// Gradients take a second pass around the ring with the merged result and log-sum-exp: LibTorch's own
/// log-sum-exp has no gradient, so that autograd's way through the merge would be wrong without an error.
at::Tensor ring_attention(const Communicator& ring, const Attention& call, const std::vector<Ranges>& held);

}  // namespace wanpar
