#pragma once
#include <wanpar/extend/module/attention.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Attention over tokens that are sharded by `layout`.
at::Tensor split_attention(const SequenceParallelOptions& options, const TokenLayout& layout, Attention call);

}  // namespace wanpar
