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
  std::optional<double> scale = {};  ///< 1 / sqrt(channels) by default
  bool grouped = false;              ///< fewer key heads than query heads

  /// Query, key, value, and the mask if there is one.
  std::vector<at::Tensor> inputs() const;
  /// The same attention with other inputs, in that order.
  Attention on(const std::vector<at::Tensor>& inputs) const;
};

/// Attention over a part of the keys, with the statistics needed to merge it with other parts: the weight of
/// a row is exp(max) · sum. A log-sum-exp would not be precise enough: for logits around −1e4 or 1000
/// rounding leaves too few digits of log(n), and for float32's lowest number none.
struct AttentionPart {
  at::Tensor out;  ///< [batch…, heads, queries, value channels], the inputs' dtype
  at::Tensor max;  ///< [batch…, heads, queries], float32 or float64: the greatest score, or a number near it
  at::Tensor sum;  ///< as max: the sum of exp(score − max)

  /// The log-sum-exp of the scores.
  at::Tensor lse() const;
};

/// For every device, dtype and shape: LibTorch's kernels where they apply and are precise, plain tensor
/// operators otherwise. Without queries the result is empty; in rows that attend to no key, out is 0 and max
/// is −inf. Throws Error for what LibTorch would reject, and for dropout, which cannot be reproduced part by
/// part.
AttentionPart attention_part(const Attention& call);

}  // namespace wanpar
