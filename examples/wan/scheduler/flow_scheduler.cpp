#include "wan/scheduler/flow_scheduler.hpp"

#include <ATen/ops/sub.h>
#include <fmt/format.h>

#include <utility>

#include "wanpar/core/error.hpp"

namespace wan {

FlowScheduler::FlowScheduler(FlowSchedule schedule) : schedule_(std::move(schedule)) {}

at::Tensor FlowScheduler::step(const at::Tensor& velocity, const at::Tensor& sample) {
  if (done_ == steps())
    throw wanpar::Error(
        fmt::format("scheduler: all {} steps are done; make a new scheduler for the next video", steps()));
  return advance(done_++, velocity, sample);
}

at::Tensor FlowScheduler::data_estimate(int64_t i, const at::Tensor& velocity,
                                        const at::Tensor& sample) const {
  return at::sub(sample, velocity, sigma(i));
}

}  // namespace wan
