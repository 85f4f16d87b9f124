#pragma once
#include <torch/nn.h>

#include "wan/config.hpp"
#include "wan/vae/layers.hpp"

namespace wan {

/// Turns the frames of a video into moments of its latents, one part of the video after the other.
class EncoderImpl : public torch::nn::Module {
 public:
  explicit EncoderImpl(const VaeConfig& config);

  /// frames [batch, 3, n, 8h, 8w] -> [batch, 2 channels, m, h, w]. A video's first part is its first frame
  /// alone, and m is 1; of each later part n is a multiple of 4, and m is n / 4. The cache belongs to the
  /// video.
  at::Tensor forward(at::Tensor frames, FeatureCache& cache);

  CausalConv conv1;
  torch::nn::ModuleList downsamples, middle;

 private:
  ChannelNorm head_norm_;
  CausalConv head_conv_;
};
TORCH_MODULE(Encoder);

/// Wan's causal video VAE, its encoding half. Parameters carry the official names.
class VaeEncoderImpl : public torch::nn::Module {
 public:
  explicit VaeEncoderImpl(VaeConfig config);

  /// frames [batch, 3, F, 8h, 8w] in [-1, 1] -> latents [batch, channels, (F-1)/4 + 1, h, w] as the
  /// transformer sees them: the mean of the posterior, normalised, in the dtype of the weights. As in the
  /// reference, frames that do not fill the last four are left out.
  /// Throws Error when the shape does not fit.
  at::Tensor encode(at::Tensor frames);

  const VaeConfig& config() const { return config_; }

  Encoder encoder;
  Conv conv1;

 private:
  VaeConfig config_;
};
TORCH_MODULE(VaeEncoder);

}  // namespace wan
