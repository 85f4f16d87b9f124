#pragma once
#include <torch/nn.h>

#include <optional>

namespace wanpar::conformance::models {

/// A transformer as anybody would write it: plain LibTorch, it knows nothing of ranks.
struct AttentionModelOptions {
  int64_t dim = 48, heads = 6, layers = 2;
  int64_t key_heads = 6;  // fewer: grouped attention
  bool causal = false;
};

struct AttentionBlockImpl : torch::nn::Module {
  explicit AttentionBlockImpl(AttentionModelOptions o) : options(o), width(o.dim / o.heads) {
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({o.dim})));
    query = register_module("query", torch::nn::Linear(o.dim, o.dim));
    key_value = register_module("key_value", torch::nn::Linear(o.dim, 2 * o.key_heads * width));
    out = register_module("out", torch::nn::Linear(o.dim, o.dim));
    text = register_module("text", torch::nn::Linear(o.dim, 2 * o.dim));
    mlp = register_module("mlp", torch::nn::Sequential(torch::nn::Linear(o.dim, 2 * o.dim), torch::nn::GELU(),
                                                       torch::nn::Linear(2 * o.dim, o.dim)));
  }

  at::Tensor heads(const at::Tensor& x) { return x.unflatten(-1, {-1, width}).transpose(1, 2); }

  at::Tensor forward(at::Tensor x, const at::Tensor& context, const std::optional<at::Tensor>& mask) {
    auto h = norm(x);
    auto kv = key_value(h).chunk(2, -1);
    bool grouped = options.key_heads != options.heads;
    auto attended = at::scaled_dot_product_attention(heads(query(h)), heads(kv[0]), heads(kv[1]), mask, 0.0,
                                                     options.causal, std::nullopt, grouped);
    x = x + out(attended.transpose(1, 2).flatten(2));
    if (context.defined()) {
      auto words = text(context).chunk(2, -1);
      x = x + at::scaled_dot_product_attention(heads(query(x)), heads(words[0]), heads(words[1]))
                  .transpose(1, 2)
                  .flatten(2);
    }
    return x + mlp->forward(x);
  }

  AttentionModelOptions options;
  int64_t width;
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear query{nullptr}, key_value{nullptr}, out{nullptr}, text{nullptr};
  torch::nn::Sequential mlp{nullptr};
};
TORCH_MODULE(AttentionBlock);

/// tokens [batch, tokens, dim], context [batch, words, dim] or undefined, mask as attention takes it.
struct AttentionModelImpl : torch::nn::Module {
  explicit AttentionModelImpl(AttentionModelOptions options = {}) {
    for (int64_t i = 0; i < options.layers; ++i)
      blocks.push_back(register_module("block" + std::to_string(i), AttentionBlock(options)));
  }
  at::Tensor forward(at::Tensor x, at::Tensor context = {}, std::optional<at::Tensor> mask = {}) {
    for (auto& block : blocks) x = block(x, context, mask);
    return x;
  }
  std::vector<AttentionBlock> blocks;
};
TORCH_MODULE(AttentionModel);

}  // namespace wanpar::conformance::models
