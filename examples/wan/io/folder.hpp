#pragma once
#include <filesystem>

#include "wan/io/settings.hpp"

// What the layouts of checkpoints have in common.
namespace wan {

bool is_folder(const std::filesystem::path& path);

/// Throws Error where the file is missing.
void require_file(const std::filesystem::path& file);
Settings settings_of(const std::filesystem::path& file);

/// As transformers chooses it: tokenizer.json goes before the SentencePiece model that it was made from.
/// Throws Error where there is neither.
std::filesystem::path tokenizer_in(const std::filesystem::path& folder);

/// What a folder with two transformers is, for errors.
extern const char* const kTwoExperts;

}  // namespace wan
