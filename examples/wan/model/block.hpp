#pragma once
#include <torch/nn.h>

#include "wan/config.hpp"
#include "wan/model/layers.hpp"

namespace wan {

// Everything here works on [batch, tokens, dim], each token for itself; only at::scaled_dot_product_attention
// sees other tokens, and it is called once with [batch, heads, tokens, head_dim].

/// What both kinds of attention hold. Queries and keys are normalised over all heads together.
class AttentionImpl : public torch::nn::Module {
 public:
  explicit AttentionImpl(const TransformerConfig& config);

  Linear q, k, v, o;
  RmsNorm norm_q, norm_k;

 protected:
  at::Tensor split_heads(
      const at::Tensor& x) const;  // [batch, tokens, dim] -> [batch, tokens, heads, head_dim]
  at::Tensor attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values);

 private:
  int64_t heads_;
};

/// Attention of the video's tokens among themselves, their positions told by rotation.
class SelfAttentionImpl : public AttentionImpl {
 public:
  using AttentionImpl::AttentionImpl;
  at::Tensor forward(at::Tensor x, const at::Tensor& rotation);
};
TORCH_MODULE(SelfAttention);

/// Attention of the video's tokens to the text [batch, text rows, dim], padding rows included.
class CrossAttentionImpl : public AttentionImpl {
 public:
  using AttentionImpl::AttentionImpl;
  at::Tensor forward(const at::Tensor& x, const at::Tensor& text);
};
TORCH_MODULE(CrossAttention);

/// One layer of the diffusion transformer.
class BlockImpl : public torch::nn::Module {
 public:
  explicit BlockImpl(const TransformerConfig& config);

  /// x [batch, tokens, dim], the residual stream; time [batch, 6, dim], the projected time embedding;
  /// rotation as wan::rotation() makes it. Returns the new residual stream, in the dtype of x.
  at::Tensor forward(at::Tensor x, const at::Tensor& time, const at::Tensor& text,
                     const at::Tensor& rotation);

  at::Tensor modulation;  // [1, 6, dim]: shift, scale and gate of self attention, then of the feed-forward
  SelfAttention self_attn;
  CrossAttention cross_attn;
  LayerNorm norm3;
  torch::nn::Sequential ffn;

 private:
  double eps_;
};
TORCH_MODULE(Block);

}  // namespace wan
