#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "wan/config.hpp"
#include "wan/text/unigram.hpp"

// The parts of a checkpoint in the diffusers layout. Each file appears whole or not at all. All throw Error
// when the disk refuses.
namespace wan {

/// Tensors by their official names; the files have those of diffusers.
using NamedWeights = std::map<std::string, at::Tensor>;

void write_transformer(const std::filesystem::path& checkpoint, const TransformerConfig& config,
                       const NamedWeights& weights);
void write_vae(const std::filesystem::path& checkpoint, const VaeConfig& config, const NamedWeights& weights);
void write_text_encoder(const std::filesystem::path& checkpoint, const TextEncoderConfig& config,
                        const NamedWeights& weights);
void write_scheduler(const std::filesystem::path& checkpoint, double shift);
/// As a SentencePiece model, and beside it as tokenizer.json, which transformers reads.
void write_tokenizer(const std::filesystem::path& checkpoint, const Unigram::Pieces& vocabulary);
/// What makes a checkpoint of a folder: to be written last.
void write_index(const std::filesystem::path& checkpoint);

}  // namespace wan
