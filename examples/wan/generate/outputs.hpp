#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "wan/generate/job.hpp"

namespace wan {

/// The files of one video; empty where not asked for.
struct Outputs {
  std::filesystem::path video;
  std::filesystem::path contact_sheet;
  std::filesystem::path tensors;
};

/// Those of each prompt: as asked for, or named after the job; with the prompt's number, 1 for the first,
/// where prompts come from a file.
std::vector<Outputs> outputs_of(const Job& job);

/// Throws Error where two of the job's outputs are one file, or one of them is a file that the job reads.
void check_apart(const Job& job, const std::vector<Outputs>& outputs);

/// Throws Error for a file that could not be written.
void check_writable(const Job& job, const Outputs& outputs);

/// What became of a prompt.
struct Result {
  at::Tensor texts;    ///< [2, text_len, text_dim], prompt and negative prompt
  at::Tensor latents;  ///< [channels, T, H, W]
  at::Tensor frames;
};

/// Writes all files of a video, or none. Throws Error.
void write(const Job& job, const Outputs& outputs, const std::string& prompt, uint64_t seed,
           const Result& result);

}  // namespace wan
