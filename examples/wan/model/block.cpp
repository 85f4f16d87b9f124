#include "wan/model/block.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "wan/model/rope.hpp"

namespace wan {

AttentionImpl::AttentionImpl(const TransformerConfig& config)
    : q(register_module("q", Linear(config.dim, config.dim))),
      k(register_module("k", Linear(config.dim, config.dim))),
      v(register_module("v", Linear(config.dim, config.dim))),
      o(register_module("o", Linear(config.dim, config.dim))),
      norm_q(register_module("norm_q", RmsNorm(config.dim, config.eps))),
      norm_k(register_module("norm_k", RmsNorm(config.dim, config.eps))),
      heads_(config.heads) {}

at::Tensor AttentionImpl::split_heads(const at::Tensor& x) const { return x.unflatten(-1, {heads_, -1}); }

at::Tensor AttentionImpl::attend(const at::Tensor& queries, const at::Tensor& keys,
                                 const at::Tensor& values) {
  // Norms and rotation ran in their own precision; attention itself runs in that of the linears.
  const auto ready = [&](const at::Tensor& x) { return x.to(o->dtype()).transpose(1, 2); };
  const auto out = at::scaled_dot_product_attention(ready(queries), ready(keys), ready(values));
  return o(out.transpose(1, 2).flatten(2));
}

at::Tensor SelfAttentionImpl::forward(at::Tensor x, const at::Tensor& rotation) {
  x = x.to(q->dtype());
  return attend(rotate(split_heads(norm_q(q(x))), rotation), rotate(split_heads(norm_k(k(x))), rotation),
                split_heads(v(x)));
}

at::Tensor CrossAttentionImpl::forward(const at::Tensor& x, const at::Tensor& text) {
  return attend(split_heads(norm_q(q(x))), split_heads(norm_k(k(text))), split_heads(v(text)));
}

BlockImpl::BlockImpl(const TransformerConfig& config)
    : modulation(register_parameter("modulation", at::empty({1, 6, config.dim}), false)),
      self_attn(register_module("self_attn", SelfAttention(config))),
      cross_attn(register_module("cross_attn", CrossAttention(config))),
      norm3(register_module("norm3", LayerNorm(config.dim, config.eps))),
      ffn(register_module("ffn", torch::nn::Sequential(Linear(config.dim, config.ffn_dim), Gelu(),
                                                       Linear(config.ffn_dim, config.dim)))),
      eps_(config.eps) {}

at::Tensor BlockImpl::forward(at::Tensor x, const at::Tensor& time, const at::Tensor& text,
                              const at::Tensor& rotation) {
  const auto m = (modulation + time).chunk(6, 1);
  const auto &shift1 = m[0], &scale1 = m[1], &gate1 = m[2], &shift2 = m[3], &scale2 = m[4], &gate2 = m[5];

  // The first sum makes a new tensor, so that the caller's x stays as it was; the others overwrite it, unless
  // a backward may want what it was.
  const auto free = [](const at::Tensor& y) { return at::GradMode::is_enabled() ? y.clone() : y; };
  x = at::addcmul(x, self_attn(modulated_norm(x, shift1, scale1, eps_), rotation), gate1);
  x = free(x).add_(cross_attn(norm3(x), text));
  return free(x).addcmul_(ffn->forward(modulated_norm(x, shift2, scale2, eps_)), gate2);
}

}  // namespace wan
