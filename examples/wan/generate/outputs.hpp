#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "wan/generate/job.hpp"

namespace wan {

/// The files of one video; empty if not requested.
struct Outputs {
  std::filesystem::path video;
  std::filesystem::path contact_sheet;
  std::filesystem::path tensors;
};

/// The outputs of each prompt: as requested, or named after the job; numbered from 1 if prompts come from a
/// file.
std::vector<Outputs> outputs_of(const Job& job);

/// Throws Error if two outputs are the same file, or an output is a file that the job reads.
void check_apart(const Job& job, const std::vector<Outputs>& outputs);

/// Throws Error for a file that could not be written.
void check_writable(const Job& job, const Outputs& outputs);

/// The results of a prompt.
struct Result {
  at::Tensor texts;    ///< [2, text_len, text_dim], prompt and negative prompt
  at::Tensor latents;  ///< [channels, T, H, W]
  at::Tensor frames;
};

/// Writes all files of a video, or none. Throws Error.
void write(const Job& job, const Outputs& outputs, const std::string& prompt, uint64_t seed,
           const Result& result);

}  // namespace wan
