#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include "wan/generate/job.hpp"
#include "wan/io/progress.hpp"

namespace wan {

/// Collective. The frames [3, F, H, W], float32 on the CPU, that the VAE makes of latents [channels, T, h,
/// w], which the ranks of the group have alike. With --vae_parallel each decodes a band of them and all have
/// all frames; without it, or where latents are too small for bands, the group's first rank decodes, and the
/// others have none. `progress` is rank 0's.
at::Tensor decode(const wanpar::Communicator& group, const Job& job, const at::Tensor& latents,
                  at::Device device, Progress* progress);

}  // namespace wan
