#pragma once
#include <torch/nn.h>

#include <functional>

#include "wan/config.hpp"
#include "wan/vae/layers.hpp"

namespace wan {

/// Turns the latent frames of a video into pixels, one at a time.
class DecoderImpl : public torch::nn::Module {
 public:
  explicit DecoderImpl(const VaeConfig& config);

  /// latent [batch, channels, 1, h, w] -> frames [batch, 3, n, 8h, 8w]; n is 1 for a video's first latent
  /// frame and 4 for each that follows. The cache belongs to the video.
  at::Tensor forward(at::Tensor latent, FeatureCache& cache);

  CausalConv conv1;
  torch::nn::ModuleList middle, upsamples;

 private:
  ChannelNorm head_norm_;
  CausalConv head_conv_;
};
TORCH_MODULE(Decoder);

/// Wan's causal video VAE, its decoding half. Parameters carry the official names.
class VaeImpl : public torch::nn::Module {
 public:
  explicit VaeImpl(VaeConfig config);

  /// latents [batch, channels, T, h, w] as the transformer sees them -> frames [batch, 3, 4(T-1)+1, 8h, 8w]
  /// in
  /// [-1, 1], in the dtype of the weights. `progress` hears of every latent frame done.
  /// Throws Error when the shape does not fit, or a frame is not finite.
  at::Tensor decode(at::Tensor latents, const std::function<void(int64_t done, int64_t all)>& progress = {});

  const VaeConfig& config() const { return config_; }

  Conv conv2;
  Decoder decoder;

 private:
  VaeConfig config_;
};
TORCH_MODULE(Vae);

/// Starts of the names that a checkpoint has for the encoding half.
inline const std::vector<std::string> kEncoderPrefixes = {"encoder.", "conv1."};

}  // namespace wan
