#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include "wan/generate/job.hpp"
#include "wan/generate/stop.hpp"
#include "wan/io/progress.hpp"
#include "wan/vae/decoder.hpp"

namespace wan {

/// Collective. Decodes latents [channels, T, h, w], replicated on the ranks of the group, to frames [3, F, H,
/// W], float32 on the CPU. With --vae_parallel each rank decodes a band, and all get all frames; without it,
/// or if the latents are too small for bands, the group's first rank decodes, and the others get none.
/// `progress` is rank 0's. If `kept` is given, the VAE is taken from there, and left there for the next job.
/// After each latent frame the ranks follow `stop`.
at::Tensor decode(const wanpar::Communicator& group, const Job& job, const at::Tensor& latents,
                  at::Device device, Progress* progress, Vae* kept = nullptr, Stop* stop = nullptr);

Vae load_vae(const Job& job, at::Device device);

}  // namespace wan
