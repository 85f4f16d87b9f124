#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "wan/config.hpp"
#include "wan/io/keys.hpp"
#include "wan/io/weights.hpp"

namespace wan {

/// What a folder with a model holds. Weights have official names and lie in the mapped files.
struct Contents {
  TransformerConfig transformer_config;
  TextEncoderConfig text_encoder_config;
  VaeConfig vae_config;
  Weights transformer, text_encoder, vae;
  std::filesystem::path tokenizer;   ///< tokenizer.json, or the SentencePiece model where there is none
  std::optional<double> flow_shift;  ///< that the folder asks for
};

/// One way in which the folder of a model may be laid out.
struct Layout {
  const char* name;       ///< "diffusers"
  const char* known_by;   ///< the file that makes a folder one of these
  const char* published;  ///< by whom, for errors
  /// Throws Error that says in one sentence what is missing, damaged or not supported, and in which file.
  Contents (*open)(const std::filesystem::path& folder);
  /// The name that its files have, or should have, for a parameter.
  std::string (*name_in_file)(Part part, const std::string& official, const VaeConfig& vae);
};

/// All of them; a folder is of the first whose file it has.
const std::vector<Layout>& layouts();

/// The layout of this folder. Throws Error where there is none.
const Layout& layout_of(const std::filesystem::path& folder);

}  // namespace wan
