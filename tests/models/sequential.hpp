#pragma once
#include <torch/nn.h>

namespace wanpar::conformance::models {

/// Attention of tokens to one another: x [batch, tokens, width].
struct SelfAttentionImpl : torch::nn::Module {
  SelfAttentionImpl(int64_t width, int64_t h) : heads(h) {
    in = register_module("in", torch::nn::Linear(width, 3 * width));
    out = register_module("out", torch::nn::Linear(width, width));
  }
  at::Tensor forward(const at::Tensor& x) {
    auto parts = in(x).unflatten(-1, {3, heads, -1}).permute({2, 0, 3, 1, 4}).unbind(0);
    return x + out(at::scaled_dot_product_attention(parts[0], parts[1], parts[2]).transpose(1, 2).flatten(2));
  }
  int64_t heads;
  torch::nn::Linear in{nullptr}, out{nullptr};
};
TORCH_MODULE(SelfAttention);

/// A stack of layers in the plainest of ways: x [batch, tokens, 12].
inline torch::nn::Sequential sequential_model() {
  using torch::nn::Linear, torch::nn::LayerNorm, torch::nn::LayerNormOptions;
  return torch::nn::Sequential(Linear(12, 24), SelfAttention(24, 6), LayerNorm(LayerNormOptions({24})),
                               Linear(24, 24), torch::nn::GELU(), SelfAttention(24, 6),
                               LayerNorm(LayerNormOptions({24})), Linear(24, 12));
}

}  // namespace wanpar::conformance::models
