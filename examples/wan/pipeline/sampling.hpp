#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

#include "wan/scheduler/scheduler.hpp"

namespace wan {

/// The model's prediction for latents at a timestep, 0..1000; text and guidance are inside.
using Velocity = std::function<at::Tensor(const at::Tensor& latents, double timestep)>;

/// A step that is done.
struct Step {
  int64_t number, steps;
  const at::Tensor& latents;  ///< that it began with
  const at::Tensor& velocity;
  double timestep;

  /// What the velocity leads to, were it to stay: noise is taken away that later steps would take.
  at::Tensor foreseen() const;
};

/// Leads noise to latents, one velocity a step; `step_done` hears of every step. Latents stay float32.
at::Tensor sample(at::Tensor noise, Scheduler& scheduler, const Velocity& velocity,
                  const std::function<void(const Step& step)>& step_done = {});

}  // namespace wan
