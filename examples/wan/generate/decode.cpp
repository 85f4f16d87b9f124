#include "wan/generate/decode.hpp"

#include <ATen/ATen.h>

#include "wan/io/load.hpp"
#include "wan/vae/bands.hpp"

namespace wan {
namespace {

Vae load_vae(const Job& job, at::Device device) {
  Vae vae(job.checkpoint.vae_config());
  load(*vae, job.checkpoint.vae(), {.device = device, .ignore_prefixes = kEncoderPrefixes});
  return vae;
}

}  // namespace

at::Tensor decode(const wanpar::Communicator& group, const Job& job, const at::Tensor& latents,
                  at::Device device, Progress* progress) {
  const auto batch = latents.unsqueeze(0);
  const bool by_bands = job.options.vae_parallel && has_bands(latents.size(2), latents.size(3), group.size());
  if (!by_bands && group.rank() != 0) return {};
  auto vae = load_vae(job, device);
  if (progress) progress->start("decode", latents.size(1));
  const auto frame_done = [&](int64_t done, int64_t) {
    if (progress) progress->update(done);
  };
  const auto frames =
      by_bands ? decode_by_bands(group, vae, batch, frame_done) : vae->decode(batch, frame_done);
  return frames.squeeze(0).to(at::kFloat).cpu();
}

}  // namespace wan
