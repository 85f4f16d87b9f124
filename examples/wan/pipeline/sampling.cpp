#include "wan/pipeline/sampling.hpp"

namespace wan {

at::Tensor sample(at::Tensor noise, Scheduler& scheduler, const Velocity& velocity,
                  const std::function<void(int64_t step, int64_t steps)>& progress) {
  auto latents = noise.to(at::kFloat);
  const auto& timesteps = scheduler.timesteps();
  const auto steps = static_cast<int64_t>(timesteps.size());
  for (int64_t i = 0; i < steps; ++i) {
    latents = scheduler.step(velocity(latents, timesteps[i]).to(at::kFloat), latents);
    if (progress) progress(i + 1, steps);
  }
  return latents;
}

}  // namespace wan
