#pragma once
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/adamw.hpp"
#include "train/trainee.hpp"
#include "wan/cli/usage_error.hpp"
#include "wan/config.hpp"

namespace wan::train {

/// What the user of wan_train asks for.
struct Options {
  enum class What { vae, t2v };
  std::optional<std::string> answer;  ///< of --help and its like: to be printed, and nothing else to be done
  What task = What::vae;

  std::filesystem::path output_dir, init, vae;
  uint64_t seed = 0;

  int64_t frame_size = 128, frame_num = 17;
  int64_t crop_size = 64, crop_frames = 9;
  int64_t clips = 2000;
  int64_t samples = 4;

  VaeConfig vae_config = {.base_dim = 16, .multipliers = {1, 2, 4, 4}, .residual_blocks = 1};
  TransformerConfig transformer = {.dim = 192, .heads = 6, .layers = 7, .ffn_dim = 768, .text_dim = 128};
  TextEncoderConfig text_encoder = {.dim = 128, .heads = 4, .head_dim = 32, .ffn_dim = 256, .layers = 2};
  double shift = 3;
  double caption_dropout = 0.1;
  std::optional<double> pairs;

  int64_t batch_size = 8, accumulate = 1;
  Schedule schedule;
  AdamWOptions adamw;
  double clip_grad = 1, ema = 0.999;
  int64_t save_every = 200, sample_every = 1000, print_every = 20;
  std::optional<double> seconds;

  int64_t local_ranks = 1;
  std::optional<int64_t> data_parallel_size;
  Shard shard = Shard::none;
  bool activation_checkpointing = false;
  std::string device = "cpu";
  at::ScalarType dtype = at::kFloat;
  std::filesystem::path trace;
  double timeout = 600;

  /// What makes the losses what they are, a line each: what a resumed run must have alike.
  std::string settings() const;
  /// How many ranks, or groups of ranks that share one, hold a model.
  int64_t replicas(int ranks) const;
};

/// Throws UsageError: one sentence with the flag, its value and what to write instead.
Options parse_options(const std::vector<std::string>& arguments);

/// Throws UsageError where so many ranks cannot share the work as the options say.
void check_ranks(const Options& options, int ranks);

/// What ranks of one run must have alike, a line each, the program's version among it.
std::string described(const Options& options, const std::string& version);

}  // namespace wan::train
