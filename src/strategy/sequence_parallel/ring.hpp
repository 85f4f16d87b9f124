#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/attention.hpp>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Ring attention of this rank's queries to the keys of all ranks; `held` are the tokens of each.
/// Communication of the next keys and values overlaps with attention to the current ones; partial results are
/// merged by their weights, in float32 or better. The call is prepared and has one batch dimension; the mask
/// has this rank's rows, or one for all, and all columns in the order of the sequence, or one for all.
///
/// Backward is a second pass around the ring with the merged result and weights. (LibTorch's log-sum-exp
/// output is not differentiable, so autograd through the merge would be silently wrong.)
at::Tensor ring_attention(const Communicator& ring, Attention call, const std::vector<Ranges>& held);

}  // namespace wanpar
