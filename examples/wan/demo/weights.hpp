#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "wan/config.hpp"

namespace wan::demo {

// Weights that nobody trained, yet that make something to look at: smooth coloured forms that drift and
// change with seed and prompt. All are drawn from fixed seeds and carry the official names.

/// Its self-attention is a blur of the noise over near tokens, taken away from the velocity: what is smooth
/// grows from step to step, what is not fades. The text shifts the colours.
std::map<std::string, at::Tensor> transformer_weights(const TransformerConfig& config);

/// Random mixtures of the channels, smooth in space and time.
std::map<std::string, at::Tensor> vae_weights(const VaeConfig& config);

/// Random, of sizes that keep different prompts different.
std::map<std::string, at::Tensor> text_encoder_weights(const TextEncoderConfig& config);

}  // namespace wan::demo
