#include "strategy/patch_parallel/patch_schedule.hpp"

#include <fmt/format.h>

#include <wanpar/core/error.hpp>

namespace wanpar {

std::string text_of(PatchMode mode) {
  switch (mode) {
    case PatchMode::exact:
      return "exact";
    case PatchMode::warm_up:
      return "warm-up";
    case PatchMode::synchronous:
      return "synchronous";
    case PatchMode::displaced:
      return "displaced";
  }
  return {};
}

PatchSchedule::PatchSchedule(const PatchParallelOptions& options)
    : warmup_(options.warmup_steps),
      frequency_(options.sync_frequency),
      sync_first_(options.sync_first_step) {
  if (warmup_ < 0)
    throw UsageError(fmt::format("PatchParallel: .warmup_steps is {}; give 0 or more", warmup_));
  if (frequency_ < 0)
    throw UsageError(
        fmt::format("PatchParallel: .sync_frequency is {}; give 1 or more steps, or 0 for none", frequency_));
  if (!sync_first_ && (warmup_ > 0 || frequency_ > 0))
    throw UsageError(
        fmt::format("PatchParallel: .sync_first_step is false, but .warmup_steps {} and .sync_frequency {} "
                    "make the first step synchronous; give 0 for both, or leave it true",
                    warmup_, frequency_));
}

PatchMode PatchSchedule::mode_of(int64_t steps_before) const {
  if (steps_before < warmup_ || (steps_before == 0 && sync_first_)) return PatchMode::warm_up;
  return frequency_ > 0 && steps_before % frequency_ == 0 ? PatchMode::synchronous : PatchMode::displaced;
}

void PatchSchedule::begin_step(int64_t step) {
  if (step < 0)
    throw UsageError(
        fmt::format("PatchParallel: update_step({}); give the number of a step, from 0 on", step));
  if (step == 0) forget();
  if (step_ && step != *step_ + 1)
    throw UsageError(
        fmt::format("PatchParallel: update_step({}) after step {}; give {}, or 0 for another video, or call "
                    "synchronize() before steps that do not follow",
                    step, *step_, *step_ + 1));
  if (!first_) first_ = step;
  step_ = step;
  mode_ = mode_of(step - *first_);
}

}  // namespace wanpar
