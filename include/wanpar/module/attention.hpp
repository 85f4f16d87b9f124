#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace wanpar {

/// One call of scaled_dot_product_attention.
struct Attention {
  at::Tensor query;  ///< [batch…, heads, queries, channels]
  at::Tensor key;    ///< [batch…, heads, keys, channels]
  at::Tensor value;  ///< [batch…, heads, keys, value channels]
  std::optional<at::Tensor> mask =
      {};  ///< broadcasts to [batch…, heads, queries, keys]; bool (true: attend) or added
  double dropout = 0;
  bool causal = false;
  std::optional<double> scale = {};  ///< 1 / sqrt(channels) where left out
  bool grouped = false;              ///< fewer key heads than query heads

  /// Query, key, value, and the mask where there is one.
  std::vector<at::Tensor> inputs() const;
  /// The same attention on other tensors, in that order.
  Attention on(const std::vector<at::Tensor>& inputs) const;
};

struct AttentionWithLse {
  at::Tensor out;  ///< [batch…, heads, queries, value channels], the inputs' dtype
  at::Tensor
      lse;  ///< [batch…, heads, queries]: log of the sum of the exponentiated scores, float32 or float64
};

/// Attention together with its log-sum-exp, by which attention over parts of the keys is merged into the
/// whole.
///
/// For every device, dtype and shape: LibTorch's own kernels where they apply, plain tensor operators
/// otherwise. No queries give an empty result; where no key is attended, out is 0 and lse is −inf. Throws
/// Error for dropout, which cannot be repeated part by part.
AttentionWithLse attention_with_lse(Attention call);

struct AttentionGradients {
  at::Tensor query, key, value;  ///< the shapes of the call's own, float32 or float64
};

/// Gradients of attention over some of the keys, given the result and log-sum-exp over all of them and the
/// gradient of that result: P = exp(scores − lse), dV = PᵀdO, dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)), dQ = dS K,
/// dK = dSᵀ Q, as FlashAttention has it (arXiv:2205.14135, appendix B).
///
/// The call is four-dimensional. Throws Error for dropout, and for a mask that asks for gradients.
AttentionGradients attention_backward(Attention call, const AttentionWithLse& whole,
                                      const at::Tensor& gradient);

/// The key and value heads repeated so that there are as many as query heads.
void repeat_heads(Attention& call);

}  // namespace wanpar
