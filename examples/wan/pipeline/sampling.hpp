#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

#include "wan/scheduler/scheduler.hpp"

namespace wan {

/// The model's prediction for latents at a timestep, 0..1000; text and guidance are inside.
using Velocity = std::function<at::Tensor(const at::Tensor& latents, double timestep)>;

/// Leads noise to latents, one velocity a step; `progress` hears of every step done. Latents stay float32.
at::Tensor sample(at::Tensor noise, Scheduler& scheduler, const Velocity& velocity,
                  const std::function<void(int64_t step, int64_t steps)>& progress = {});

}  // namespace wan
