#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "wan/config.hpp"
#include "wan/io/safetensors.hpp"

// The shapes of the networks, from a checkpoint's config.json where it tells them, else from the tensors.
// Each throws Error, naming file and key, for what is missing and for models that are not Wan2.1
// text-to-video.
namespace wan {

TransformerConfig diffusers_transformer_config(const nlohmann::json& config, const std::string& file);
TransformerConfig official_transformer_config(const nlohmann::json& config, const std::string& file,
                                              const Weights& weights);

VaeConfig diffusers_vae_config(const nlohmann::json& config, const std::string& file);
VaeConfig official_vae_config(const Weights& weights);

/// Both layouts: transformers' config.json tells nothing that the tensors do not.
TextEncoderConfig text_encoder_config(const Weights& weights);

}  // namespace wan
