#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include "wan/generate/job.hpp"
#include "wan/generate/stop.hpp"
#include "wan/io/progress.hpp"
#include "wan/vae/decoder.hpp"

namespace wan {

/// Collective. The frames [3, F, H, W], float32 on the CPU, that the VAE makes of latents [channels, T, h,
/// w], which the ranks of the group have alike. With --vae_parallel each decodes a band of them and all have
/// all frames; without it, or where latents are too small for bands, the group's first rank decodes, and the
/// others have none. `progress` is rank 0's. Where `kept` is given, the VAE is taken from there, and stays
/// there for the next job. After each frame of latents the ranks follow `stop`.
at::Tensor decode(const wanpar::Communicator& group, const Job& job, const at::Tensor& latents,
                  at::Device device, Progress* progress, Vae* kept = nullptr, Stop* stop = nullptr);

Vae load_vae(const Job& job, at::Device device);

}  // namespace wan
