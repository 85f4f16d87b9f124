#include "wan/pipeline/sampling.hpp"

#include <ATen/ops/sub.h>

namespace wan {

at::Tensor Step::foreseen() const {
  constexpr double kTimesteps = 1000;
  return at::sub(latents, velocity, timestep / kTimesteps);
}

at::Tensor sample(at::Tensor noise, Scheduler& scheduler, const Velocity& velocity,
                  const std::function<void(const Step& step)>& step_done) {
  auto latents = noise.to(at::kFloat);
  const auto& timesteps = scheduler.timesteps();
  const auto steps = static_cast<int64_t>(timesteps.size());
  for (int64_t i = 0; i < steps; ++i) {
    const auto found = velocity(latents, timesteps[i]).to(at::kFloat);
    const auto next = scheduler.step(found, latents);
    if (step_done) step_done({i + 1, steps, latents, found, timesteps[i]});
    latents = next;
  }
  return latents;
}

}  // namespace wan
