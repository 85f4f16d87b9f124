#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "module/attention_parts.hpp"

namespace wanpar {
namespace {

at::Tensor zeros_for(const at::Tensor& x, at::ScalarType type) {
  return at::zeros(x.sizes(), x.options().dtype(type));
}

AttentionGradients by_operators(const Attention& call, const AttentionPart& whole, const at::Tensor& gradient,
                                bool of_mask) {
  auto type = accumulator(call.query);
  auto q = call.query.to(type), k = call.key.to(type), v = call.value.to(type), d_out = gradient.to(type);
  auto row_sums = (d_out * whole.out.to(type)).sum(-1, true);
  auto max = shift(whole.max).unsqueeze(-1), sum = divisor(whole.sum).unsqueeze(-1);
  AttentionGradients d{{}, zeros_for(k, type), zeros_for(v, type), {}};
  if (of_mask) d.mask = zeros_for(*call.mask, type);
  auto mask = additive_mask(call);
  auto rows = rows_at_a_time(call);
  std::vector<at::Tensor> d_query;
  for (int64_t begin = 0; begin < q.size(2); begin += rows) {
    auto n = std::min(rows, q.size(2) - begin);
    auto of_rows = [&](const at::Tensor& x) { return x.narrow(2, begin, n); };
    auto p = (scores(call, mask, begin, n) - of_rows(max)).exp_().div_(of_rows(sum));
    d.value.add_(at::matmul(p.transpose(-2, -1), of_rows(d_out)));
    auto d_scores = p.mul_(at::matmul(of_rows(d_out), v.transpose(-2, -1)) - of_rows(row_sums));
    if (of_mask) {
      auto d_mask = mask_rows(*d.mask, begin, n);
      d_mask.add_(d_scores.sum_to_size(d_mask.sizes()));
    }
    d_scores.mul_(scale_of(call));
    d_query.push_back(at::matmul(d_scores, k));
    d.key.add_(at::matmul(d_scores.transpose(-2, -1), of_rows(q)));
  }
  d.query = at::cat(d_query, 2);
  return d;
}

AttentionGradients on_cpu(const Attention& call, const at::Tensor& out, const at::Tensor& lse,
                          const at::Tensor& gradient) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  auto& dense = with_dense_channels;
  // A query without keys has lse −inf; with weights exp(score − inf) its gradient is 0.
  auto [query, key, value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      dense(gradient), dense(call.query), dense(call.key), dense(call.value), dense(out),
      lse.masked_fill(lse.eq(-infinity), infinity), 0.0, call.causal, additive_mask(call), call.scale);
  return {query, key, value, {}};
}

/// Sums gradients over the query heads that share a key head.
at::Tensor summed_by_group(const at::Tensor& d, int64_t heads) {
  return d.size(1) == heads ? d : d.unflatten(1, {heads, -1}).sum(2);
}

}  // namespace

AttentionGradients attention_backward(Attention call, const AttentionPart& whole, const at::Tensor& gradient,
                                      bool of_mask) {
  auto heads = call.key.size(1);
  if (call.query.numel() == 0 || call.key.numel() == 0 || call.value.numel() == 0) {
    auto zeros = [type = accumulator(call.query)](const at::Tensor& x) { return zeros_for(x, type); };
    AttentionGradients d{zeros(call.query), zeros(call.key), zeros(call.value), {}};
    if (of_mask) d.mask = zeros(*call.mask);
    return d;
  }
  if (call.grouped) repeat_heads(call);

  auto lse = whole.lse();
  bool by_kernel =
      call.query.is_cpu() && has_same_channels(call) && !of_mask && is_precise(lse, call.query.scalar_type());
  auto d = by_kernel ? on_cpu(call, whole.out, lse, gradient) : by_operators(call, whole, gradient, of_mask);
  return {d.query, summed_by_group(d.key, heads), summed_by_group(d.value, heads), d.mask};
}

}  // namespace wanpar
