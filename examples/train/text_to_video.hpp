#pragma once
#include <torch/nn.h>

#include <cstdint>
#include <vector>

#include "wan/config.hpp"
#include "wan/model/transformer.hpp"
#include "wan/text/umt5.hpp"

namespace wan::train {

/// Text encoder and transformer as one module, trained together.
class TextToVideoImpl : public torch::nn::Module {
 public:
  TextToVideoImpl(const TextEncoderConfig& text_encoder, const TransformerConfig& transformer);

  /// latents [batch, channels, T, h, w], timestep [batch], 0..1000, ids and mask [batch, tokens] of the
  /// captions. Gives the velocity, like latents, alone in a list.
  std::vector<at::Tensor> forward(at::Tensor latents, at::Tensor timestep, at::Tensor ids, at::Tensor mask);

  /// Random weights that train well: what blocks add to the tokens begins as nothing.
  void initialize(uint64_t seed);

  Umt5 text_encoder;
  Transformer transformer;
};
TORCH_MODULE(TextToVideo);

}  // namespace wan::train
