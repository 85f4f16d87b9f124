#pragma once
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "wan/cli/options.hpp"
#include "wan/io/checkpoint.hpp"
#include "wan/pipeline/noise.hpp"

namespace wan {

class Tokenizer;

/// A validated checkpoint: each network has its tensors, and the tokenizer is loaded.
struct Source {
  /// Throws Error.
  explicit Source(const std::filesystem::path& ckpt_dir);

  Checkpoint checkpoint;
  std::shared_ptr<const Tokenizer> tokenizer;
};

/// Everything that is decided before the first weight is read; equal on every rank.
struct Job {
  Options options;
  Checkpoint checkpoint;
  std::vector<std::string> prompts;
  std::vector<std::vector<int64_t>>
      texts;  ///< token ids of the prompts, followed by the negative prompt, not truncated
  std::vector<std::string> notes;  ///< remarks for the user on texts and options
  Degrees degrees;
  VideoSize size;
  double shift;
  at::DeviceType device;
  at::ScalarType dtype;
  std::function<void(size_t bytes)> loaded = {};  ///< called for weights that are loaded, on any thread
};

/// Fills in the options that are not set, from the checkpoint and the machine. Throws Error for what cannot
/// work: prompts, degrees that do not match the ranks, sizes, a checkpoint of another task, a missing CUDA
/// device.
Job plan(Options options, int world_size);
/// As above, for one of many jobs with the same checkpoint.
Job plan(const Source& source, Options options, int world_size);

/// `float32`, as --dtype has it.
std::string name_of(at::ScalarType dtype);

/// What must be equal on all ranks of a job, one line each: options, prompts, the checkpoint's tensors, the
/// program's version.
std::string described(const Job& job, const std::string& version);

}  // namespace wan
