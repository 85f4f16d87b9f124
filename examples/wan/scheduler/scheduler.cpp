#include "wan/scheduler/scheduler.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "wan/scheduler/dpmpp.hpp"
#include "wan/scheduler/euler.hpp"
#include "wan/scheduler/unipc.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

using MakeScheduler = std::unique_ptr<Scheduler>(int64_t steps, double shift);

template <class Kind, FlowSchedule (*schedule)(int64_t steps, double shift)>
std::unique_ptr<Scheduler> make_of(int64_t steps, double shift) {
  return std::make_unique<Kind>(schedule(steps, shift));
}

/// In the order of kSolverNames.
constexpr MakeScheduler* kSolvers[] = {
    make_of<UniPC, unipc_schedule>, make_of<DpmPlusPlus, dpmpp_schedule>,  // the official DPM-Solver++ 2M
    make_of<Euler, euler_schedule>,
    make_of<UniPC, diffusers_unipc_schedule>,  // the noise levels of diffusers
};
static_assert(std::size(kSolvers) == kSolverNames.size());

}  // namespace

std::unique_ptr<Scheduler> make_scheduler(const std::string& solver, int64_t steps, double shift) {
  if (steps < 1)
    throw wanpar::UsageError(fmt::format("scheduler: {} steps asked for; at least 1 is needed", steps));
  if (!(shift > 0))
    throw wanpar::UsageError(fmt::format("scheduler: the shift is {} and should be above 0", shift));
  const auto* found = std::ranges::find(kSolverNames, solver);
  if (found == kSolverNames.end())
    throw wanpar::UsageError(fmt::format("scheduler: there is no solver '{}'; choose one of {}", solver,
                                         fmt::join(kSolverNames, ", ")));
  return kSolvers[found - kSolverNames.begin()](steps, shift);
}

}  // namespace wan
