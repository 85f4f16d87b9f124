#include "wan/generate/denoise.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <wanpar/files/safetensors.hpp>

#include "wan/pipeline/guidance.hpp"
#include "wan/scheduler/scheduler.hpp"

namespace wan {
namespace {

/// Each group computes one branch of the guidance; all get both.
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
  // Both branches in one pass: each block's weights are gathered once, and stages get two micro-batches.
  if (job.options.dit_fsdp || mesh.size("pipeline") > 1)
    return guided_at_once(conditioned(transformer, texts), scale);
  return guided(under(0), under(1), scale);
}

/// The velocity with patches, whose steps are updated.
Velocity in_steps(Velocity velocity, ParallelTransformer& transformer) {
  if (!transformer.patches) return velocity;
  return [velocity = std::move(velocity), &patches = *transformer.patches, step = int64_t{0}](
             const at::Tensor& latents, double timestep) mutable {
    patches.update_step(step++);
    return velocity(latents, timestep);
  };
}

bool is_finite(const at::Tensor& x) { return x.isfinite().all().item<bool>(); }

/// Without data-parallel groups, all ranks find the same.
[[noreturn]] void refuse(const Job& job, const std::string& why) {
  if (job.degrees.data == 1) throw wanpar::AgreedError(why);
  throw wanpar::Error(why);
}

[[noreturn]] void refuse_solver(const Job& job) {
  refuse(job,
         fmt::format("the solver {} makes NaN or infinity of finite predictions, with shift {} and guidance "
                     "{}; take those of the checkpoint",
                     job.options.sample_solver, job.shift, job.options.sample_guide_scale));
}

/// As above, and throws Error if values are not finite: on all ranks of a group, since they have the same
/// values.
Velocity finite(Velocity velocity, const Job& job) {
  return [velocity = std::move(velocity), &job, step = int64_t{0}](const at::Tensor& latents,
                                                                   double timestep) mutable {
    ++step;
    auto found = velocity(latents, timestep);
    if (is_finite(found)) return found;
    if (!is_finite(latents)) refuse_solver(job);
    refuse(job,
           fmt::format("the transformer makes NaN or infinity in step {} of {}, in {} with guidance {}: its "
                       "weights are damaged{}",
                       step, job.options.sample_steps, name_of(job.dtype), job.options.sample_guide_scale,
                       job.dtype == at::kFloat ? ", or the guidance is too strong"
                                               : ", or want --dtype float32 or a weaker guidance"));
  };
}

}  // namespace

at::Tensor first_latents(const Job& job, uint64_t seed) {
  if (job.options.noise.empty()) return initial_noise(job.checkpoint.vae_config(), job.size, seed);
  const auto tensors = wanpar::read_safetensors(job.options.noise);
  const auto found = tensors.find("latents");
  if (found == tensors.end())
    throw wanpar::Error(fmt::format("{}: there is no tensor 'latents' in it", job.options.noise.string()));
  const auto shape = latent_shape(job.checkpoint.vae_config(), job.size);
  if (!found->second.is_floating_point())
    throw wanpar::Error(fmt::format("{}: 'latents' holds {}, and noise is of floating point numbers",
                                    job.options.noise.string(), c10::toString(found->second.scalar_type())));
  auto noise = found->second.to(at::kFloat);
  if (noise.dim() == 5 && noise.size(0) == 1) noise = noise.squeeze(0);
  if (noise.sizes() != at::IntArrayRef(shape.data(), shape.size()))
    throw wanpar::Error(fmt::format("{}: 'latents' is [{}], but this video size needs [{}]",
                                    job.options.noise.string(), fmt::join(noise.sizes(), ", "),
                                    fmt::join(shape, ", ")));
  if (!is_finite(noise))
    throw wanpar::Error(fmt::format("{}: 'latents' holds NaN or infinity", job.options.noise.string()));
  return noise;
}

at::Tensor denoise(const wanpar::Mesh& mesh, const Job& job, ParallelTransformer& transformer,
                   const at::Tensor& noise, const at::Tensor& texts,
                   const std::function<void(const Step& step)>& step_done) {
  const auto scheduler = make_scheduler(job.options.sample_solver, job.options.sample_steps, job.shift);
  const auto of_step = in_steps(velocity(mesh, job, transformer.model, texts.to(job.dtype)), transformer);
  auto latents = sample(noise.unsqueeze(0), *scheduler, finite(of_step, job), step_done);
  if (!is_finite(latents)) refuse_solver(job);
  return latents.squeeze(0);
}

}  // namespace wan
