#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "wan/scheduler/solver_names.hpp"

namespace wan {

/// Leads one sample from noise to data. It remembers earlier steps, so each video needs its own.
class Scheduler {
 public:
  virtual ~Scheduler() = default;

  /// What the model is told at each step, 0..1000, falling.
  virtual const std::vector<double>& timesteps() const = 0;

  /// The next sample, given the model's velocity for this one. Call it once for each timestep, in order;
  /// throws Error when called once more.
  virtual at::Tensor step(const at::Tensor& velocity, const at::Tensor& sample) = 0;
};

/// A scheduler by name. Throws Error for another name, for fewer than one step and for a shift that is not
/// positive.
std::unique_ptr<Scheduler> make_scheduler(const std::string& solver, int64_t steps, double shift);

}  // namespace wan
