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

/// A checkpoint that was looked at: each network has its tensors, and the tokenizer is read.
struct Source {
  /// Throws Error.
  explicit Source(const std::filesystem::path& ckpt_dir);

  Checkpoint checkpoint;
  std::shared_ptr<const Tokenizer> tokenizer;
};

/// Everything that is decided before the first weight is read, the same on every rank.
struct Job {
  Options options;
  Checkpoint checkpoint;
  std::vector<std::string> prompts;
  std::vector<std::vector<int64_t>>
      texts;                       ///< ids of the prompts and, behind them, the negative prompt, uncut
  std::vector<std::string> notes;  ///< what a user may want to know of them and of the options
  Degrees degrees;
  VideoSize size;
  double shift;
  at::DeviceType device;
  at::ScalarType dtype;
  std::function<void(size_t bytes)> loaded = {};  ///< hears of weights that are loaded, on any thread
};

/// Decides what the options leave open, from the checkpoint and the machine. Throws Error, in one sentence,
/// for what could not work: prompts, degrees that do not fit, sizes, a checkpoint of another task, no CUDA
/// device.
Job plan(Options options, int world_size);
/// The same for one of many jobs of a checkpoint.
Job plan(const Source& source, Options options, int world_size);

/// `float32`, as --dtype has it.
std::string name_of(at::ScalarType dtype);

/// What ranks of one job must have alike, a line each: options, prompts, the checkpoint's shapes and where
/// its tensors lie, the program's version.
std::string described(const Job& job, const std::string& version);

}  // namespace wan
