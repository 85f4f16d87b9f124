#pragma once
#include <torch/nn.h>

#include <string>

namespace wanpar::conformance::models {

/// A language model as anybody would write it: causal attention with grouped heads and rotated positions,
/// gated perceptrons, and the embedding once more as the last product. Plain LibTorch.
struct DecoderLayerImpl : torch::nn::Module {
  DecoderLayerImpl(int64_t width, int64_t heads, int64_t key_heads) : channels(width / heads) {
    auto linear = [&](const std::string& name, int64_t in, int64_t out) {
      return register_module(name, torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false)));
    };
    query = linear("query", width, width);
    key = linear("key", width, key_heads * channels);
    value = linear("value", width, key_heads * channels);
    out = linear("out", width, width);
    gate = linear("gate", width, 2 * width);
    up = linear("up", width, 2 * width);
    down = linear("down", 2 * width, width);
    first_norm = register_parameter("first_norm", torch::ones({width}));
    last_norm = register_parameter("last_norm", torch::ones({width}));
  }

  at::Tensor rotated(const at::Tensor& x, const at::Tensor& angles) {
    auto halves = x.unflatten(-1, {-1, channels}).transpose(1, 2).chunk(2, -1);
    auto cos = angles.cos(), sin = angles.sin();
    return at::cat({halves[0] * cos - halves[1] * sin, halves[0] * sin + halves[1] * cos}, -1);
  }

  at::Tensor forward(at::Tensor x, const at::Tensor& angles) {
    auto h = at::rms_norm(x, {x.size(-1)}, first_norm, 1e-6);
    auto values = value(h).unflatten(-1, {-1, channels}).transpose(1, 2);
    auto attended =
        at::scaled_dot_product_attention(rotated(query(h), angles), rotated(key(h), angles), values, {}, 0.0,
                                         /*is_causal=*/true, std::nullopt, /*enable_gqa=*/true);
    x = x + out(attended.transpose(1, 2).flatten(2));
    h = at::rms_norm(x, {x.size(-1)}, last_norm, 1e-6);
    return x + down(at::silu(gate(h)) * up(h));
  }

  int64_t channels;
  torch::nn::Linear query{nullptr}, key{nullptr}, value{nullptr}, out{nullptr};
  torch::nn::Linear gate{nullptr}, up{nullptr}, down{nullptr};
  at::Tensor first_norm, last_norm;
};
TORCH_MODULE(DecoderLayer);

/// words [batch, tokens] whole numbers, positions [1, tokens]; gives scores of the next word.
struct DecoderImpl : torch::nn::Module {
  static constexpr int64_t kWords = 31;

  explicit DecoderImpl(int64_t width = 24, int64_t heads = 6) {
    words = register_module("words", torch::nn::Embedding(kWords, width));
    for (int i = 0; i < 3; ++i) layers->push_back(DecoderLayer(width, heads, heads / 2));
    register_module("layers", layers);
    frequencies = register_buffer("frequencies", at::logspace(0, -2, width / heads / 2));
  }
  at::Tensor forward(const at::Tensor& ids, const at::Tensor& positions) {
    auto x = words(ids), beside = angles(positions);
    for (auto& layer : *layers) x = layer->as<DecoderLayer>()->forward(x, beside);
    return scores(x);
  }
  at::Tensor angles(const at::Tensor& positions) {
    return (positions.unsqueeze(-1) * frequencies).unsqueeze(1);
  }
  at::Tensor scores(const at::Tensor& x) { return at::matmul(x, words->weight.t()); }

  torch::nn::Embedding words{nullptr};
  torch::nn::ModuleList layers;
  at::Tensor frequencies;
};
TORCH_MODULE(Decoder);

}  // namespace wanpar::conformance::models
