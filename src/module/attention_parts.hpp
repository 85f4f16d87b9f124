#pragma once
#include <wanpar/extend/module/attention.hpp>

namespace wanpar {

/// The call as everything else here wants it, checked by LibTorch's own rules and with its broadcasting done,
/// by views: queries, keys and values have one number of dimensions and one batch, key heads are as many as
/// query heads or `grouped`, and a mask has as many dimensions, each of them one or whole.
///
/// The mask's rows and columns are left as they are: it may be whole where the call has a part of the tokens.
/// Throws Error by what all parts of the tokens have alike.
Attention prepared(Attention call);

/// Whether a prepared mask is one for so many queries and keys, or the same for all of them.
bool fits(const at::Tensor& mask, int64_t queries, int64_t keys);

/// The key and value heads repeated so that there are as many as query heads.
void repeat_heads(Attention& call);

struct AttentionGradients {
  at::Tensor query, key, value;    ///< the shapes of the call's own, float32 or float64
  std::optional<at::Tensor> mask;  ///< likewise, where it was asked for
};

/// Gradients of attention over some of the keys, given the result over all of them and its gradient:
/// P = exp(scores − max) / sum, dV = PᵀdO, dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)), dQ = dS K, dK = dSᵀ Q, as
/// FlashAttention has it (arXiv:2205.14135, appendix B), and dS for the mask.
///
/// The call is prepared, and has four dimensions.
AttentionGradients attention_backward(Attention call, const AttentionPart& whole, const at::Tensor& gradient,
                                      bool of_mask);

/// What scores are summed in: float64 for float64, float32 for all else.
at::ScalarType accumulator(const at::Tensor& x);

double scale_of(const Attention& call);

/// The call's mask as one that is added to the scores, of a dtype that LibTorch's kernels take.
std::optional<at::Tensor> additive_mask(const Attention& call);

/// Query rows to be computed at a time so that their scores stay small.
int64_t rows_at_a_time(const Attention& call);

/// n rows of a mask from `begin` on, or its only one.
at::Tensor mask_rows(const at::Tensor& mask, int64_t begin, int64_t n);

/// scores [batch, heads, n, keys] of the query rows from `begin` on, scaled and masked, in the accumulator's
/// dtype.
at::Tensor scores(const Attention& call, const std::optional<at::Tensor>& mask, int64_t begin, int64_t n);

/// What is subtracted of scores before exp: their maximum, and 0 for rows that met no key, whose maximum is
/// −inf.
at::Tensor shift(const at::Tensor& max);

/// What is divided by after exp: the sum, and 1 for rows that met no key.
at::Tensor divisor(const at::Tensor& sum);

/// Whether rounding leaves enough of this log-sum-exp to tell weights by it, for results of that dtype.
bool is_precise(const at::Tensor& lse, at::ScalarType dtype);

/// Whether values have as many channels as queries and keys; LibTorch's kernels want that.
bool has_same_channels(const Attention& call);

/// x, its last dimension without gaps.
at::Tensor with_dense_channels(const at::Tensor& x);

/// The prepared call with one dimension for the batch: [batch, heads, tokens, channels].
Attention with_one_batch(Attention call);

}  // namespace wanpar
