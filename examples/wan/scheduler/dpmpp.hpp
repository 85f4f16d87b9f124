#pragma once
#include "wan/scheduler/flow_scheduler.hpp"

namespace wan {

/// DPM-Solver++ (arXiv:2211.01095), multistep of order 2 in its midpoint form; the first and the last step
/// are of order 1.
class DpmPlusPlus : public FlowScheduler {
 public:
  using FlowScheduler::FlowScheduler;

 protected:
  at::Tensor advance(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) override;

 private:
  at::Tensor previous_;  // data estimate of the step before
};

}  // namespace wan
