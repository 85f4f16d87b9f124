#pragma once
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "module/split/split_place.hpp"

namespace wanpar {

/// Attention that needs no other rank. One without queries or keys must not reach LibTorch's kernel, yet
/// stay known to autograd: in backward this rank has to take part like every other.
at::Tensor local_attention(const Attention& call);

/// Attention of this rank's queries to keys that every rank has whole: a causal mask, and
/// one given whole, are cut to their rows. Throws Error for a mask of other rows or columns.
at::Tensor attention_of_rows(const SplitPlace& place, Attention call);

/// Throws Error for an attention over `total` tokens that cannot be split exactly: with dropout, with a mask
/// that is not whole.
void check_split_attention(const Attention& call, int64_t total);

/// Attention over tokens of which each rank has the part that `place` gives it.
at::Tensor split_attention(const SequenceParallelOptions& options, const TokenLayout& place, Attention call);

}  // namespace wanpar
