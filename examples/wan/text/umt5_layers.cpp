#include "wan/text/umt5_layers.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

namespace wan {

TableImpl::TableImpl(int64_t rows, int64_t dim)
    : weight(register_parameter("weight", at::empty({rows, dim}), false)) {}

at::Tensor TableImpl::forward(const at::Tensor& indices) { return at::embedding(weight, indices); }

Umt5AttentionImpl::Umt5AttentionImpl(const TextEncoderConfig& config)
    : heads_(config.heads),
      q_(register_module("q", Linear(config.dim, heads_ * config.head_dim, Bias::no))),
      k_(register_module("k", Linear(config.dim, heads_ * config.head_dim, Bias::no))),
      v_(register_module("v", Linear(config.dim, heads_ * config.head_dim, Bias::no))),
      o_(register_module("o", Linear(heads_ * config.head_dim, config.dim, Bias::no))) {}

at::Tensor Umt5AttentionImpl::forward(const at::Tensor& x, const at::Tensor& bias) {
  constexpr double kDropout = 0, kScale = 1;
  constexpr bool kIsCausal = false;
  const auto split = [&](const at::Tensor& y) { return y.unflatten(-1, {heads_, -1}).transpose(1, 2); };
  const auto y = at::scaled_dot_product_attention(split(q_(x)), split(k_(x)), split(v_(x)), bias, kDropout,
                                                  kIsCausal, kScale);
  return o_(y.transpose(1, 2).flatten(2));
}

Umt5FeedForwardImpl::Umt5FeedForwardImpl(const TextEncoderConfig& config)
    : gate_(register_module("gate",
                            torch::nn::Sequential(Linear(config.dim, config.ffn_dim, Bias::no), Gelu()))),
      fc1_(register_module("fc1", Linear(config.dim, config.ffn_dim, Bias::no))),
      fc2_(register_module("fc2", Linear(config.ffn_dim, config.dim, Bias::no))) {}

at::Tensor Umt5FeedForwardImpl::forward(const at::Tensor& x) { return fc2_(fc1_(x) * gate_->forward(x)); }

Umt5PositionBiasImpl::Umt5PositionBiasImpl(const TextEncoderConfig& config)
    : embedding_(register_module("embedding", Table(config.buckets, config.heads))) {}

at::Tensor Umt5PositionBiasImpl::forward(const at::Tensor& buckets) {
  return embedding_(buckets).permute({2, 0, 1}).unsqueeze(0);
}

Umt5BlockImpl::Umt5BlockImpl(const TextEncoderConfig& config)
    : norm1_(register_module("norm1", RmsNorm(config.dim, config.eps))),
      norm2_(register_module("norm2", RmsNorm(config.dim, config.eps))),
      attn_(register_module("attn", Umt5Attention(config))),
      ffn_(register_module("ffn", Umt5FeedForward(config))),
      pos_embedding_(register_module("pos_embedding", Umt5PositionBias(config))) {}

at::Tensor Umt5BlockImpl::forward(at::Tensor x, const at::Tensor& buckets, const at::Tensor& is_padding) {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  x = x + attn_(norm1_(x), pos_embedding_(buckets).masked_fill(is_padding, kNever));
  return x + ffn_(norm2_(x));
}

at::Tensor relative_position_buckets(int64_t tokens, const TextEncoderConfig& config, at::Device device) {
  const int64_t half = config.buckets / 2, exact = half / 2;
  const auto position = at::arange(tokens, at::dtype(at::kLong).device(device));
  const auto distance = position.unsqueeze(0) - position.unsqueeze(1);
  const auto near = distance.abs();
  // The logarithm in float32, as the weights were trained: float64 would move borders between buckets.
  const double span = std::log(static_cast<double>(config.max_distance) / static_cast<double>(exact));
  const auto far = exact + (at::log(near.to(at::kFloat) / exact) / span * (half - exact)).to(at::kLong);
  return at::where(near < exact, near, far.clamp_max(half - 1)) + (distance > 0).to(at::kLong) * half;
}

}  // namespace wan
