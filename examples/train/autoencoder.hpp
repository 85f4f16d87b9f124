#pragma once
#include <torch/nn.h>

#include <cstdint>
#include <vector>

#include "wan/config.hpp"
#include "wan/vae/decoder.hpp"
#include "wan/vae/encoder.hpp"

namespace wan::train {

/// Both halves of the VAE as one module to be trained, its parameters under the official names.
class AutoencoderImpl : public torch::nn::Module {
 public:
  explicit AutoencoderImpl(const VaeConfig& config);

  /// frames [batch, 3, F, h, w] in [-1, 1], noise [batch, channels, T, h/8, w/8] that is added to the
  /// latents. Gives the frames again, not clamped, and the latents without noise, not normalised.
  std::vector<at::Tensor> forward(at::Tensor frames, at::Tensor noise);

  /// Random weights that train well: the residual branches begin as nothing, frames are doubled by
  /// repetition and halved by their mean.
  void initialize(uint64_t seed);

 private:
  VaeEncoder encoding_;
  Vae decoding_;
};
TORCH_MODULE(Autoencoder);

}  // namespace wan::train
