#include "wan/generate/needs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>
#include <wanpar/core/error.hpp>

#include "wan/generate/patches.hpp"
#include "wan/generate/room.hpp"
#include "wan/model/transformer.hpp"
#include "wan/vae/bands.hpp"

namespace wan {
namespace {

// Lower bounds: only what is certainly held at the same time counts, so that no job is rejected that would
// run.

struct Bound {
  const char* phase;
  double bytes;
  const char* remedy;
};

constexpr double kFloat = 4;

/// Bytes of the weights that are not used directly from the mapped file.
double converted(const Weights& weights, at::ScalarType dtype) {
  double bytes = 0;
  for (const auto& [name, entry] : weights) {
    const bool is_kept = dtype == entry.tensor.scalar_type();
    if (!is_kept)
      bytes += static_cast<double>(entry.tensor.numel()) * static_cast<double>(c10::elementSize(dtype));
  }
  return bytes;
}

/// The tensors of a residual block at the largest level (input, window and result), and all frames at the
/// end: twice, or once on each rank with bands.
Bound of_decoding(const Job& job, const HostShare& share) {
  const auto& vae = job.checkpoint.vae_config();
  const auto pixels = static_cast<double>(job.size.width) * static_cast<double>(job.size.height);
  const auto frames = static_cast<double>(job.size.frames);
  const auto at_once = job.size.frames > 1 ? static_cast<double>(frames_together(vae)) : 1;
  const auto level = static_cast<double>(vae.base_dim * vae.multipliers.front()) * at_once * pixels * kFloat;
  const auto video = 3 * frames * pixels * kFloat;
  const auto latents = latent_shape(vae, job.size);
  const auto makers = job.degrees.ranks() / job.degrees.data;
  if (makers == 1 || !job.options.vae_parallel || !has_bands(latents[2], latents[3], makers))
    return {"decoding", std::max(3 * level, 2 * video), "a smaller --size or --frame_num"};
  const auto here = static_cast<double>(share.processes) * share.threads;
  return {"decoding", here * std::max(3 * level / static_cast<double>(makers), video),
          "a smaller --size or --frame_num, or --vae_parallel false"};
}

Bound of_denoising(const Job& job, const HostShare& share) {
  const auto& config = job.checkpoint.transformer_config();
  const auto latents = latent_shape(job.checkpoint.vae_config(), job.size);
  const auto tokens = static_cast<double>(latents[1]) * static_cast<double>(latents[2] / kPatch) *
                      static_cast<double>(latents[3] / kPatch);
  const auto split = static_cast<double>(job.degrees.ulysses * job.degrees.ring * job.degrees.patch);
  const auto element = static_cast<double>(c10::elementSize(job.dtype));
  // A block's residual stream in float32, and queries, keys and values, or the hidden layer of the
  // feed-forward.
  const auto middle = std::max(3 * config.dim, config.ffn_dim);
  const auto each =
      tokens / split * (static_cast<double>(config.dim) * kFloat + static_cast<double>(middle) * element);
  const auto ranks = static_cast<double>(share.processes) * share.threads;
  auto weights =
      converted(job.checkpoint.transformer(), job.dtype) / static_cast<double>(job.degrees.pipeline);
  if (share.weights_are_there) weights = 0;
  weights *= job.options.dit_fsdp ? 1 : share.processes;
  if (job.options.dit_fsdp) weights /= std::max(1.0, static_cast<double>(job.degrees.ranks()) / ranks);
  const auto kept = bytes_kept(job);
  return {
      "denoising", ranks * (each + kept) + weights,
      kept > 0
          ? "--patch_overlap, --kv_dtype float8_e4m3fn, --ulysses_size in the place of patches, a smaller "
            "--size or --frame_num"
          : "a smaller --size or --frame_num, more ranks, --dit_fsdp or --dtype bfloat16"};
}

Bound of_text(const Job& job, const HostShare& share) {
  auto weights = converted(job.checkpoint.text_encoder(), job.dtype);
  if (job.options.t5_fsdp) weights /= static_cast<double>(job.degrees.ranks());
  if (share.weights_are_there) weights = 0;
  return {"encoding the text", weights, "--t5_fsdp on more ranks, or --dtype of the checkpoint's weights"};
}

}  // namespace

std::vector<Need> needs_of(const Job& job, const HostShare& share) {
  std::vector<Bound> all = {of_decoding(job, share)};
  if (job.device == at::kCPU) all.insert(all.end(), {of_text(job, share), of_denoising(job, share)});
  std::vector<Need> needs;
  for (const auto& [phase, bytes, remedy] : all)
    needs.push_back({phase, static_cast<uint64_t>(std::min(bytes, 1e19)), remedy});
  return needs;
}

void check_memory(const Job& job, const HostShare& share, const Room& left) {
  for (const auto& [phase, bytes, remedy] : needs_of(job, share)) {
    if (bytes <= left.bytes) continue;
    throw wanpar::Error(fmt::format(
        "--size {}*{} with --frame_num {}: {} takes {} of memory at least, and {} are left by {}; take {}",
        job.size.width, job.size.height, job.size.frames, phase, gibibytes(bytes), gibibytes(left.bytes),
        left.limit, remedy));
  }
}

}  // namespace wan
