#include "wan/pipeline/guidance.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/lerp.h>

namespace wan {

Velocity guided(Velocity positive, Velocity negative, double scale) {
  if (scale == 1) return positive;
  return [=](const at::Tensor& latents, double timestep) {
    const auto toward = positive(latents, timestep);
    return at::lerp(negative(latents, timestep), toward, scale);
  };
}

Velocity guided_at_once(Velocity both, double scale) {
  return [=](const at::Tensor& latents, double timestep) {
    const auto velocities = both(at::cat({latents, latents}), timestep).chunk(2);
    return at::lerp(velocities[1], velocities[0], scale);
  };
}

}  // namespace wan
