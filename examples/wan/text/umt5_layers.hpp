#pragma once
#include <torch/nn.h>

#include "wan/config.hpp"
#include "wan/model/layers.hpp"

namespace wan {

/// One row for each index.
class TableImpl : public torch::nn::Module {
 public:
  TableImpl(int64_t rows, int64_t dim);
  at::Tensor forward(const at::Tensor& indices);

  at::Tensor weight;
};
TORCH_MODULE(Table);

/// Self-attention whose scores are not divided by the square root of the head's width.
class Umt5AttentionImpl : public torch::nn::Module {
 public:
  explicit Umt5AttentionImpl(const TextEncoderConfig& config);

  /// x [batch, tokens, dim]; bias [1 or batch, heads, tokens, tokens], added to the scores.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bias);

 private:
  int64_t heads_;
  Linear q_, k_, v_, o_;
};
TORCH_MODULE(Umt5Attention);

/// W2 (W1 x * gelu(Wgate x)), GELU by its tanh approximation.
class Umt5FeedForwardImpl : public torch::nn::Module {
 public:
  explicit Umt5FeedForwardImpl(const TextEncoderConfig& config);
  at::Tensor forward(const at::Tensor& x);

 private:
  torch::nn::Sequential gate_;
  Linear fc1_, fc2_;
};
TORCH_MODULE(Umt5FeedForward);

/// What attention adds to the score of a key, by its distance from the query.
class Umt5PositionBiasImpl : public torch::nn::Module {
 public:
  explicit Umt5PositionBiasImpl(const TextEncoderConfig& config);
  at::Tensor forward(const at::Tensor& buckets);  // [tokens, tokens] -> [1, heads, tokens, tokens]

 private:
  Table embedding_;
};
TORCH_MODULE(Umt5PositionBias);

/// One layer of the encoder.
class Umt5BlockImpl : public torch::nn::Module {
 public:
  explicit Umt5BlockImpl(const TextEncoderConfig& config);

  /// x [batch, tokens, dim]; buckets [tokens, tokens] of the distances; is_padding [batch, 1, 1, tokens].
  at::Tensor forward(at::Tensor x, const at::Tensor& buckets, const at::Tensor& is_padding);

 private:
  RmsNorm norm1_, norm2_;
  Umt5Attention attn_;
  Umt5FeedForward ffn_;
  Umt5PositionBias pos_embedding_;
};
TORCH_MODULE(Umt5Block);

/// The bucket of each distance from a query (row) to a key (column), int64 [tokens, tokens]: exact while
/// near, then logarithmic up to `config.max_distance`; the upper half of the buckets is for keys that come
/// later.
at::Tensor relative_position_buckets(int64_t tokens, const TextEncoderConfig& config, at::Device device);

}  // namespace wan
