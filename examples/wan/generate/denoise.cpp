#include "wan/generate/denoise.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "wan/pipeline/guidance.hpp"
#include "wan/scheduler/scheduler.hpp"

namespace wan {
namespace {

/// Each group computes one branch of the guidance, and all have both.
Velocity guided_over(const wanpar::Communicator& groups, Velocity mine, double scale) {
  return [=](const at::Tensor& latents, double timestep) {
    const auto both = groups.all_gather(mine(latents, timestep).contiguous()).get().chunk(2, 0);
    return at::lerp(both[1], both[0], scale);
  };
}

/// The velocity that the scheduler follows, over all ranks of the mesh.
Velocity velocity(const wanpar::Mesh& mesh, const Job& job, const wanpar::Model& transformer,
                  const at::Tensor& texts) {
  const auto under = [&](int64_t prompt) { return conditioned(transformer, texts.narrow(0, prompt, 1)); };
  const auto scale = job.options.sample_guide_scale;
  if (job.options.guidance() == Guidance::off) return under(0);
  if (mesh.size("cfg") == 2) return guided_over(mesh["cfg"], under(mesh.index("cfg")), scale);
  // Both branches in one pass: each block's weights are gathered once for the two, stages have both to do.
  if (job.options.dit_fsdp || mesh.size("pipeline") > 1)
    return guided_at_once(conditioned(transformer, texts), scale);
  return guided(under(0), under(1), scale);
}

}  // namespace

at::Tensor first_latents(const Job& job, uint64_t seed) {
  if (job.options.noise.empty()) return initial_noise(job.checkpoint.vae_config(), job.size, seed);
  const auto tensors = read_safetensors(job.options.noise);
  const auto found = tensors.find("latents");
  if (found == tensors.end())
    throw wanpar::Error(fmt::format("{}: there is no tensor 'latents' in it", job.options.noise.string()));
  const auto shape = latent_shape(job.checkpoint.vae_config(), job.size);
  auto noise = found->second.to(at::kFloat);
  if (noise.dim() == 5 && noise.size(0) == 1) noise = noise.squeeze(0);
  if (noise.sizes() != at::IntArrayRef(shape.data(), shape.size()))
    throw wanpar::Error(fmt::format("{}: 'latents' is [{}], but this video size needs [{}]",
                                    job.options.noise.string(), fmt::join(noise.sizes(), ", "),
                                    fmt::join(shape, ", ")));
  return noise;
}

at::Tensor denoise(const wanpar::Mesh& mesh, const Job& job, const wanpar::Model& transformer,
                   const at::Tensor& noise, const at::Tensor& texts,
                   const std::function<void(int64_t step, int64_t steps)>& step_done) {
  const auto scheduler = make_scheduler(job.options.sample_solver, job.options.sample_steps, job.shift);
  return sample(noise.unsqueeze(0), *scheduler, velocity(mesh, job, transformer, texts.to(job.dtype)),
                step_done)
      .squeeze(0);
}

}  // namespace wan
