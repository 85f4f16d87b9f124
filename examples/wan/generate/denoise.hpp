#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/mesh.hpp>

#include <functional>

#include "wan/generate/job.hpp"
#include "wan/generate/transformer.hpp"
#include "wan/pipeline/sampling.hpp"

namespace wan {

/// The initial noise [channels, T, H, W] of every video of the job: from the file, or from the seed.
/// Throws Error for a file that is not of this video size.
at::Tensor first_latents(const Job& job, uint64_t seed);

/// Collective. Denoises `noise` to latents [channels, T, H, W], guided by texts [2, text_len, text_dim]
/// (prompt and negative prompt); calls `step_done` after every step. Patches keep their stale activations
/// until synchronize().
at::Tensor denoise(const wanpar::Mesh& mesh, const Job& job, ParallelTransformer& transformer,
                   const at::Tensor& noise, const at::Tensor& texts,
                   const std::function<void(const Step& step)>& step_done);

}  // namespace wan
