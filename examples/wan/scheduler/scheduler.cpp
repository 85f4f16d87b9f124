#include "wan/scheduler/scheduler.hpp"

#include <fmt/format.h>

#include "wan/scheduler/dpmpp.hpp"
#include "wan/scheduler/euler.hpp"
#include "wan/scheduler/unipc.hpp"
#include "wanpar/core/error.hpp"

namespace wan {

std::unique_ptr<Scheduler> make_scheduler(const std::string& solver, int64_t steps, double shift) {
  if (steps < 1)
    throw wanpar::Error(fmt::format("scheduler: {} steps asked for; at least 1 is needed", steps));
  if (!(shift > 0))
    throw wanpar::Error(fmt::format("scheduler: the shift is {} and should be above 0", shift));
  if (solver == "unipc") return std::make_unique<UniPC>(unipc_schedule(steps, shift));
  if (solver == "diffusers_unipc") return std::make_unique<UniPC>(diffusers_unipc_schedule(steps, shift));
  if (solver == "dpm++") return std::make_unique<DpmPlusPlus>(dpmpp_schedule(steps, shift));
  if (solver == "euler") return std::make_unique<Euler>(euler_schedule(steps, shift));
  throw wanpar::Error(fmt::format(
      "scheduler: there is no solver '{}'; choose unipc, dpm++, euler or diffusers_unipc", solver));
}

}  // namespace wan
