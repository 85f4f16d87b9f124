#pragma once
#include <memory>

#include "wan/io/layout.hpp"

namespace wan {

/// A folder with a Wan2.1 text-to-video model. Weights have official names and lie in the mapped files:
/// opening reads configs and headers only. A cheap value.
class Checkpoint {
 public:
  /// Throws Error that says in one sentence what is missing, damaged or not supported, and in which file.
  explicit Checkpoint(const std::filesystem::path& folder)
      : layout_(&layout_of(folder)), all_(std::make_shared<const Contents>(layout_->open(folder))) {}

  const Layout& layout() const { return *layout_; }

  const TransformerConfig& transformer_config() const { return all_->transformer_config; }
  const TextEncoderConfig& text_encoder_config() const { return all_->text_encoder_config; }
  const VaeConfig& vae_config() const { return all_->vae_config; }

  const Weights& transformer() const { return all_->transformer; }
  const Weights& text_encoder() const { return all_->text_encoder; }
  const Weights& vae() const { return all_->vae; }

  /// The name that the checkpoint's files have, or should have, for a parameter.
  std::string name_in_file(Part part, const std::string& official) const {
    return layout_->name_in_file(part, official, all_->vae_config);
  }

  /// The tokenizer of the text encoder: tokenizer.json, or the SentencePiece model where there is none.
  std::filesystem::path tokenizer() const { return all_->tokenizer; }

  /// The shift of the noise schedule that the folder asks for; the official layout never does.
  std::optional<double> flow_shift() const { return all_->flow_shift; }

 private:
  const Layout* layout_;
  std::shared_ptr<const Contents> all_;  // copies share it
};

}  // namespace wan
