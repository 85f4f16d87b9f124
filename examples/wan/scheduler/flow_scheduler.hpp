#pragma once
#include "wan/scheduler/flow.hpp"
#include "wan/scheduler/scheduler.hpp"

namespace wan {

/// What the solvers share: the schedule, and the place in it.
class FlowScheduler : public Scheduler {
 public:
  explicit FlowScheduler(FlowSchedule schedule);
  const std::vector<double>& timesteps() const final { return schedule_.timesteps; }
  at::Tensor step(const at::Tensor& velocity, const at::Tensor& sample) final;

 protected:
  /// Leads the sample from sigma(i) to sigma(i + 1).
  virtual at::Tensor advance(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) = 0;

  int64_t steps() const { return static_cast<int64_t>(schedule_.timesteps.size()); }
  double sigma(int64_t i) const { return schedule_.sigmas[i]; }

  /// The data that the velocity promises: sample - sigma(i) * velocity.
  at::Tensor data_estimate(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) const;

 private:
  FlowSchedule schedule_;
  int64_t done_ = 0;
};

}  // namespace wan
