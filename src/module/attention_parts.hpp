#pragma once
#include <wanpar/module/attention.hpp>

namespace wanpar {

/// What scores are summed in: float64 for float64, float32 for all else.
at::ScalarType accumulator(const at::Tensor& x);

double scale_of(const Attention& call);

/// The call's mask as one that is added to the scores, [batch, heads, queries, keys], of the query's dtype.
std::optional<at::Tensor> additive_mask(const Attention& call);

/// Query rows to be computed at a time so that their scores stay small.
int64_t rows_at_a_time(const Attention& call);

/// scores [batch, heads, n, keys] of the query rows from `begin` on, scaled and masked, in the accumulator's
/// dtype.
at::Tensor scores(const Attention& call, const std::optional<at::Tensor>& mask, int64_t begin, int64_t n);

/// Whether values have as many channels as queries and keys; LibTorch's kernels want that.
bool has_same_channels(const Attention& call);

/// x, its last dimension without gaps.
at::Tensor with_dense_channels(const at::Tensor& x);

/// [batch…, heads, tokens, channels] with one dimension for the batch.
at::Tensor with_one_batch(const at::Tensor& x);

}  // namespace wanpar
