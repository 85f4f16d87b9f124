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

/// Attention over some of the keys, with what it weighs beside attention over others of them: the weight of a
/// row is exp(max) · sum. Their log would not do: of −1e4 + log(n), or of a logit of a thousand, rounding
/// leaves too little, and of float32's lowest number + log(n) nothing.
struct AttentionPart {
  at::Tensor out;  ///< [batch…, heads, queries, value channels], the inputs' dtype
  at::Tensor max;  ///< [batch…, heads, queries], float32 or float64: the greatest score, or a number near it
  at::Tensor sum;  ///< as max: the sum of exp(score − max)

  /// Log of the sum of the exponentiated scores.
  at::Tensor lse() const;
};

/// For every device, dtype and shape: LibTorch's own kernels where they apply and are precise, plain tensor
/// operators otherwise. No queries give an empty result; where no key is attended, out is 0 and max is −inf.
/// Throws Error for what LibTorch would refuse, and for dropout, which cannot be repeated part by part.
AttentionPart attention_part(const Attention& call);

}  // namespace wanpar
