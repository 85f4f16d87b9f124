#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/mesh.hpp>

#include <functional>

#include "wan/generate/job.hpp"
#include "wan/generate/transformer.hpp"
#include "wan/pipeline/sampling.hpp"

namespace wan {

/// The noise [channels, T, H, W] that every video of the job starts from: the file's, or that of the seed.
/// Throws Error for a file that is not of this video size.
at::Tensor first_latents(const Job& job, uint64_t seed);

/// Collective. The latents [channels, T, H, W] that noise becomes under texts [2, text_len, text_dim], prompt
/// and negative prompt; `step_done` hears of every step. Patches keep what they have of each other until
/// they are told to forget it.
at::Tensor denoise(const wanpar::Mesh& mesh, const Job& job, ParallelTransformer& transformer,
                   const at::Tensor& noise, const at::Tensor& texts,
                   const std::function<void(const Step& step)>& step_done);

}  // namespace wan
