#pragma once
#include "wan/config.hpp"
#include "wan/io/settings.hpp"
#include "wan/io/weights.hpp"

// The shapes of the networks, from a checkpoint's config.json where it tells them, else from the tensors.
// Each throws Error, naming file and key, for what is missing or cannot be, and for models that are not
// Wan2.1 text-to-video.
namespace wan {

TransformerConfig diffusers_transformer_config(const Settings& config);
/// Whether config.json of an official folder is that of a text-to-video model of Wan2.1.
void check_official(const Settings& config);
TransformerConfig official_transformer_config(const Settings& config, const Weights& weights);

VaeConfig diffusers_vae_config(const Settings& config);
VaeConfig official_vae_config(const Weights& weights);

/// Whether the tensors have the sizes that config.json tells of them.
void check_sizes(const TransformerConfig& config, const Settings& settings, const Weights& weights);
void check_sizes(const VaeConfig& config, const std::string& file, const Weights& weights);

/// Both layouts: the tensors tell the sizes.
TextEncoderConfig text_encoder_config(const Weights& weights);
/// What transformers' config.json tells beyond the tensors, which must be of its sizes.
TextEncoderConfig diffusers_text_encoder_config(const Settings& config, const Weights& weights);

}  // namespace wan
