#include "wan/pipeline/guidance.hpp"

#include <ATen/ops/lerp.h>

namespace wan {

Velocity guided(Velocity positive, Velocity negative, double scale) {
  if (scale == 1) return positive;
  return [=](const at::Tensor& latents, double timestep) {
    const auto toward = positive(latents, timestep);
    return at::lerp(negative(latents, timestep), toward, scale);
  };
}

}  // namespace wan
