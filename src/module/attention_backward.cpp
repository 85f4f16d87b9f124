#include <ATen/ATen.h>

#include <limits>
#include <wanpar/core/error.hpp>

#include "module/attention_parts.hpp"

namespace wanpar {
namespace {

AttentionGradients by_operators(const Attention& call, const AttentionWithLse& whole,
                                const at::Tensor& gradient) {
  auto type = accumulator(call.query);
  auto wide = [&](const at::Tensor& x) { return x.to(type); };
  auto q = wide(call.query), k = wide(call.key), v = wide(call.value), d_out = wide(gradient);
  auto row_sums = (d_out * wide(whole.out)).sum(-1, true), lse = wide(whole.lse).unsqueeze(-1);
  auto d_key = at::zeros_like(k), d_value = at::zeros_like(v);
  auto mask = additive_mask(call);
  auto rows = rows_at_a_time(call);
  std::vector<at::Tensor> d_query;
  for (int64_t begin = 0; begin < q.size(2); begin += rows) {
    auto n = std::min(rows, q.size(2) - begin);
    auto of_rows = [&](const at::Tensor& x) { return x.narrow(2, begin, n); };
    auto p = (scores(call, mask, begin, n) - of_rows(lse)).exp_();
    d_value.add_(at::matmul(p.transpose(-2, -1), of_rows(d_out)));
    auto d_scores =
        p.mul_(at::matmul(of_rows(d_out), v.transpose(-2, -1)) - of_rows(row_sums)).mul_(scale_of(call));
    d_query.push_back(at::matmul(d_scores, k));
    d_key.add_(at::matmul(d_scores.transpose(-2, -1), of_rows(q)));
  }
  return {at::cat(d_query, 2), d_key, d_value};
}

AttentionGradients on_cpu(const Attention& call, const AttentionWithLse& whole, const at::Tensor& gradient) {
  auto& dense = with_dense_channels;
  auto [query, key, value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      dense(gradient), dense(call.query), dense(call.key), dense(call.value), dense(whole.out), whole.lse,
      0.0, call.causal, additive_mask(call), call.scale);
  return {query, key, value};
}

/// Back to the heads that were shared.
at::Tensor summed_by_group(const at::Tensor& d, int64_t heads) {
  return d.size(1) == heads ? d : d.unflatten(1, {heads, -1}).sum(2);
}

}  // namespace

AttentionGradients attention_backward(Attention call, const AttentionWithLse& whole,
                                      const at::Tensor& gradient) {
  if (call.dropout > 0)
    throw Error("gradients of attention in parts: dropout cannot be repeated part by part");
  if (call.mask && call.mask->requires_grad())
    throw Error(
        "gradients of attention in parts: the mask asks for gradients, which are not computed; detach() it");
  auto heads = call.key.size(1);
  if (call.query.numel() == 0 || call.key.numel() == 0 || call.value.numel() == 0) {
    auto zeros = [](const at::Tensor& x) { return at::zeros(x.sizes(), x.options().dtype(accumulator(x))); };
    return {zeros(call.query), zeros(call.key), zeros(call.value)};
  }
  if (call.grouped) repeat_heads(call);

  // A query that met no key has lse −inf, and a gradient of 0 once its weights are exp(score − inf).
  auto settled = whole;
  settled.lse = whole.lse.masked_fill(whole.lse.eq(-std::numeric_limits<double>::infinity()),
                                      std::numeric_limits<double>::infinity());
  auto d = call.query.is_cpu() && has_same_channels(call) ? on_cpu(call, settled, gradient)
                                                          : by_operators(call, settled, gradient);
  return {d.query, summed_by_group(d.key, heads), summed_by_group(d.value, heads)};
}

}  // namespace wanpar
