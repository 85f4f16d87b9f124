#pragma once
#include <torch/nn.h>

#include <string>
#include <vector>

#include "wan/config.hpp"
#include "wan/model/block.hpp"
#include "wan/model/layers.hpp"
#include "wan/model/rope.hpp"

namespace wan {

/// Cuts latents into patches of 1 x 2 x 2 and maps each to a token: a convolution whose kernels do not
/// overlap, done as one matrix product.
class PatchEmbeddingImpl : public torch::nn::Module {
 public:
  PatchEmbeddingImpl(int64_t channels, int64_t dim);
  at::Tensor forward(const at::Tensor& latents);  // [batch, channels, T, H, W] -> [batch, tokens, dim]

  at::Tensor weight, bias;
};
TORCH_MODULE(PatchEmbedding);

/// The last modulated norm and the map from tokens to patches.
class HeadImpl : public torch::nn::Module {
 public:
  explicit HeadImpl(const TransformerConfig& config);
  at::Tensor forward(const at::Tensor& x, const at::Tensor& time);  // time [batch, dim]

  at::Tensor modulation;  // [1, 2, dim]: shift and scale
  Linear head;

 private:
  double eps_;
};
TORCH_MODULE(Head);

/// Wan's diffusion transformer for text to video: predicts the velocity (noise minus data) of noisy latents.
///
/// Parameters carry the official names. With bfloat16 weights the residual stream, norms, modulation, time
/// embedding and head still run in float32, provided that the parameters named by kFloat32Parameters are kept
/// so.
class TransformerImpl : public torch::nn::Module {
 public:
  explicit TransformerImpl(TransformerConfig config);

  /// latents [batch, channels, T, H, W], H and W even; timestep [batch], 0..1000;
  /// text [batch, text_len, text_dim], rows past a prompt's end zero.
  /// Returns [batch, out_channels, T, H, W] in the head's dtype. Throws Error when a shape does not fit.
  at::Tensor forward(at::Tensor latents, at::Tensor timestep, at::Tensor text);

  const TransformerConfig& config() const { return config_; }

  PatchEmbedding patch_embedding;
  torch::nn::Sequential text_embedding, time_embedding, time_projection;
  torch::nn::ModuleList blocks;
  Head head;

 private:
  void check(const at::Tensor& latents, const at::Tensor& timestep, const at::Tensor& text) const;

  TransformerConfig config_;
};
TORCH_MODULE(Transformer);

/// Parts of the names of the parameters that stay float32 in a half-precision model.
inline const std::vector<std::string> kFloat32Parameters = {"modulation", "norm", "time_embedding",
                                                            "time_projection", "head."};

}  // namespace wan
