#include "wan/generate/patches.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <wanpar/core/error.hpp>

namespace wan {
namespace {

using wanpar::SplitMode;

/// The video in tokens, and a token in pixels and frames.
struct Tokens {
  explicit Tokens(const Job& job) {
    const auto latents = latent_shape(job.checkpoint.vae_config(), job.size);
    frames = latents[1], rows = latents[2] / kPatch, columns = latents[3] / kPatch;
    pixels = job.size.height / rows;
    frames_each = frames_together(job.checkpoint.vae_config());
  }
  int64_t frames, rows, columns;
  int64_t pixels, frames_each;
};

int64_t rounded_up(int64_t length, int64_t unit) { return (length + unit - 1) / unit; }

SplitMode mode_of(const std::string& name) {
  if (name == "temporal") return SplitMode::temporal;
  return name == "spatial" ? SplitMode::spatial : SplitMode::spatiotemporal;
}

/// The number of frame ranges: each is split into at least as many row ranges.
int64_t temporal_parts(int64_t patches) {
  for (auto parts = static_cast<int64_t>(std::sqrt(static_cast<double>(patches))); parts > 1; --parts)
    if (patches % parts == 0) return parts;
  throw wanpar::Error(
      fmt::format("--split_mode spatiotemporal cuts both frames and rows, and --patch_parallel_size {} is no "
                  "product of two numbers; take 4, or --split_mode spatial or temporal",
                  patches));
}

/// The numbers of ranks along frames, and along the rows of each frame range.
struct Sharers {
  Sharers(const Degrees& degrees, const wanpar::PatchParallelOptions& options) {
    const auto all = degrees.patch * degrees.ulysses;
    if (options.split_mode == SplitMode::temporal)
      frames = all;
    else
      frames = options.temporal_parts, rows = all / options.temporal_parts;
  }
  int64_t frames = 1, rows = 1;
};

void check(const Job& job, const wanpar::PatchParallelOptions& options, const Tokens& tokens) {
  const auto& degrees = job.degrees;
  const auto& wanted = job.options.patches;
  const auto enough = [&](int64_t count, int64_t ranks, const char* what) {
    if (count >= ranks) return;
    throw wanpar::Error(fmt::format(
        "--patch_parallel_size {} with --ulysses_size {} and --split_mode {}: {}*{} with --frame_num "
        "{} has {} {} of tokens, fewer than the {} ranks that share them; take fewer ranks, or "
        "another mode",
        degrees.patch, degrees.ulysses, wanted.split_mode, job.size.width, job.size.height, job.size.frames,
        count, what, ranks));
  };
  const Sharers sharers(degrees, options);
  enough(tokens.frames, sharers.frames, "frames");
  enough(tokens.rows, sharers.rows, "rows");

  const bool is_temporal = options.split_mode == SplitMode::temporal;
  const auto patch = (is_temporal ? tokens.frames : tokens.rows) / degrees.patch;
  if (options.patch_overlap.value_or(0) > patch)
    throw wanpar::Error(
        fmt::format("--patch_overlap {} is {} {} of tokens, more than the {} of a patch; take less, or a "
                    "smaller --patch_parallel_size",
                    *wanted.patch_overlap, *options.patch_overlap, is_temporal ? "frames" : "rows", patch));
}

}  // namespace

wanpar::PatchParallelOptions patch_options(const Job& job) {
  const auto& wanted = job.options.patches;
  const Tokens tokens(job);
  wanpar::PatchParallelOptions options{.split_mode = mode_of(wanted.split_mode),
                                       .warmup_steps = wanted.warmup_steps,
                                       .sync_first_step = wanted.sync_first_step,
                                       .sync_frequency = wanted.sync_frequency,
                                       .async_boundary_update = wanted.async_boundary_update,
                                       .max_staleness = wanted.max_staleness};
  if (job.degrees.patch == 1) return options;
  if (options.split_mode == SplitMode::spatiotemporal)
    options.temporal_parts = temporal_parts(job.degrees.patch);
  const bool is_temporal = options.split_mode == SplitMode::temporal;
  if (wanted.patch_overlap)
    options.patch_overlap =
        rounded_up(*wanted.patch_overlap, is_temporal ? tokens.frames_each : tokens.pixels);
  if (wanted.temporal_chunk_size)
    options.temporal_chunk_size = rounded_up(*wanted.temporal_chunk_size, tokens.frames_each);
  if (wanted.kv_dtype) options.kv_dtype = *wanted.kv_dtype == "bfloat16" ? at::kBFloat16 : at::kFloat8_e4m3fn;
  check(job, options, tokens);
  return options;
}

double bytes_kept(const Job& job) {
  if (job.degrees.patch == 1) return 0;
  const auto options = patch_options(job);
  const Tokens tokens(job);
  double part = 1;
  if (options.patch_overlap || options.temporal_chunk_size) {
    if (!options.async_boundary_update) return 0;
    // At most the halo on both sides, and the patch's own boundary.
    const auto seen = options.patch_overlap.value_or(0) + options.temporal_chunk_size.value_or(0);
    const auto extent = options.split_mode == SplitMode::temporal ? tokens.frames : tokens.rows;
    part = 4 * std::min(1.0, static_cast<double>(seen) / static_cast<double>(extent));
  }
  const auto& config = job.checkpoint.transformer_config();
  const auto all = static_cast<double>(tokens.frames * tokens.rows * tokens.columns) *
                   static_cast<double>(config.dim * config.layers);
  const bool has_both_branches = job.options.guidance() == Guidance::on && job.degrees.cfg == 1;
  return part * (has_both_branches ? 2 : 1) * 2 * all *
         static_cast<double>(c10::elementSize(options.kv_dtype.value_or(job.dtype))) /
         static_cast<double>(job.degrees.ulysses * job.degrees.pipeline);
}

}  // namespace wan
