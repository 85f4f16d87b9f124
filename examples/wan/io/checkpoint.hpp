#pragma once
#include <filesystem>
#include <optional>

#include "wan/config.hpp"
#include "wan/io/keys.hpp"
#include "wan/io/weights.hpp"

namespace wan {

/// How a folder of weights is laid out: as the diffusers library saves a pipeline, or as Wan-AI publishes it.
enum class Layout { diffusers, official };

/// A folder with a Wan2.1 text-to-video model. Weights have official names and lie in the mapped files:
/// opening reads configs and headers only.
class Checkpoint {
 public:
  /// Throws Error that says in one sentence what is missing, damaged or not supported, and in which file.
  explicit Checkpoint(const std::filesystem::path& folder);

  Layout layout() const { return layout_; }

  const TransformerConfig& transformer_config() const { return transformer_config_; }
  const TextEncoderConfig& text_encoder_config() const { return text_encoder_config_; }
  const VaeConfig& vae_config() const { return vae_config_; }

  Weights transformer() const { return transformer_; }
  Weights text_encoder() const { return text_encoder_; }
  Weights vae() const { return vae_; }

  /// The name that the checkpoint's files have, or should have, for a parameter.
  std::string name_in_file(Part part, const std::string& official) const;

  /// The tokenizer of the text encoder: tokenizer.json, or the SentencePiece model where there is none.
  std::filesystem::path tokenizer() const { return tokenizer_; }

  /// The shift of the noise schedule that the folder asks for; the official layout never does.
  std::optional<double> flow_shift() const { return flow_shift_; }

 private:
  void open_diffusers(const std::filesystem::path& folder);
  void open_official(const std::filesystem::path& folder);

  Layout layout_;
  TransformerConfig transformer_config_;
  TextEncoderConfig text_encoder_config_;
  VaeConfig vae_config_;
  Weights transformer_;
  Weights text_encoder_;
  Weights vae_;
  std::filesystem::path tokenizer_;
  std::optional<double> flow_shift_;
};

}  // namespace wan
