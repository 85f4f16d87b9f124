#pragma once
#include "wan/scheduler/flow_scheduler.hpp"

namespace wan {

/// Straight steps along the velocity.
class Euler : public FlowScheduler {
 public:
  using FlowScheduler::FlowScheduler;

 protected:
  at::Tensor advance(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) override;
};

}  // namespace wan
