#pragma once
#include <wanpar/extend/module/attention.hpp>

namespace wanpar {

/// The call in canonical form, validated by LibTorch's rules and broadcast by views, as all functions below
/// expect it: queries, keys and values have the same number of dimensions and the same batch; there are as
/// many key heads as query heads, unless `grouped`; the mask has as many dimensions, each of extent one or of
/// full extent.
///
/// The mask's rows and columns are not changed: it may cover all tokens where the call has a part of them.
/// Errors depend only on what is equal for all parts of the tokens, so all ranks throw alike.
Attention prepared(Attention call);

/// Whether a prepared mask fits, or broadcasts to, so many queries and keys.
bool fits(const at::Tensor& mask, int64_t queries, int64_t keys);

/// Repeats key and value heads to the number of query heads.
void repeat_heads(Attention& call);

struct AttentionGradients {
  at::Tensor query, key, value;    ///< of the inputs' shapes, in float32 or float64
  std::optional<at::Tensor> mask;  ///< likewise, if requested
};

/// Gradients of attention over a part of the keys, given the result over all keys and its gradient:
/// P = exp(scores − max) / sum, dV = PᵀdO, dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)), dQ = dS K, dK = dSᵀ Q, as
/// FlashAttention has it (arXiv:2205.14135, appendix B), and dS for the mask.
///
/// The call is prepared, and has four dimensions.
AttentionGradients attention_backward(Attention call, const AttentionPart& whole, const at::Tensor& gradient,
                                      bool of_mask);

/// The accumulation dtype of scores: float64 for float64, float32 for all else.
at::ScalarType accumulator(const at::Tensor& x);

double scale_of(const Attention& call);

/// The call's mask as an additive mask, in a dtype that LibTorch's kernels accept.
std::optional<at::Tensor> additive_mask(const Attention& call);

/// The number of query rows to compute at a time, so that their scores stay small.
int64_t rows_at_a_time(const Attention& call);

/// n rows of a mask from `begin` on, or its only row.
at::Tensor mask_rows(const at::Tensor& mask, int64_t begin, int64_t n);

/// scores [batch, heads, n, keys] of the query rows from `begin` on, scaled and masked, in the accumulator's
/// dtype.
at::Tensor scores(const Attention& call, const std::optional<at::Tensor>& mask, int64_t begin, int64_t n);

/// What is subtracted from scores before exp: their maximum, or 0 for rows without keys, whose maximum is
/// −inf.
at::Tensor shift(const at::Tensor& max);

/// The divisor after exp: the sum, or 1 for rows without keys.
at::Tensor divisor(const at::Tensor& sum);

/// Whether this log-sum-exp is precise enough, after rounding, to compute weights for results of that dtype.
bool is_precise(const at::Tensor& lse, at::ScalarType dtype);

/// Whether values have as many channels as queries and keys, which LibTorch's kernels require.
bool has_same_channels(const Attention& call);

/// x with stride 1 in its last dimension.
at::Tensor with_dense_channels(const at::Tensor& x);

/// The prepared call with its batch dimensions flattened: [batch, heads, tokens, channels].
Attention with_one_batch(Attention call);

}  // namespace wanpar
