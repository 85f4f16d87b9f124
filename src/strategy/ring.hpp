#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/attention.hpp>

#include <span>

namespace wanpar {

/// Attention of this rank's queries to all keys of a ring, each rank holding a part of them: `lengths` tokens
/// each, in rank order. The next part travels while this one is attended to; parts are merged by their
/// log-sum-exp, in float32 or better. A mask holds all columns [… , queries or 1, sum of lengths].
at::Tensor ring_attention(const Communicator& ring, Attention call, std::span<const int64_t> lengths);

}  // namespace wanpar
