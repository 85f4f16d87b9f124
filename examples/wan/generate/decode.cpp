#include "wan/generate/decode.hpp"

#include <ATen/ATen.h>

#include "wan/io/load.hpp"
#include "wan/vae/bands.hpp"

namespace wan {

Vae load_vae(const Job& job, at::Device device) {
  Vae vae(job.checkpoint.vae_config());
  load(*vae, job.checkpoint.vae(),
       {.device = device, .ignore_prefixes = kEncoderPrefixes, .loaded = job.loaded});
  return vae;
}

at::Tensor decode(const wanpar::Communicator& group, const Job& job, const at::Tensor& latents,
                  at::Device device, Progress* progress, Vae* kept, Stop* stop) {
  const auto batch = latents.unsqueeze(0);
  const bool by_bands = job.options.vae_parallel && has_bands(latents.size(2), latents.size(3), group.size());
  if (!by_bands && group.rank() != 0) return {};
  Vae own{nullptr};
  auto& vae = kept ? *kept : own;
  if (vae.is_empty()) vae = load_vae(job, device);
  if (progress) progress->start("decode", latents.size(1));
  const auto frame_done = [&](int64_t done, int64_t) {
    if (progress) progress->update(done);
    if (stop) stop->follow(by_bands ? group : wanpar::Communicator());
  };
  const auto frames =
      by_bands ? decode_by_bands(group, vae, batch, frame_done) : vae->decode(batch, frame_done);
  return frames.squeeze(0).to(at::kFloat).cpu();
}

}  // namespace wan
