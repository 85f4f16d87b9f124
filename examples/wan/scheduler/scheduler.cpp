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

struct Solver {
  const char* name;
  std::unique_ptr<Scheduler> (*make)(int64_t steps, double shift);
};

template <class Kind, FlowSchedule (*schedule)(int64_t steps, double shift)>
std::unique_ptr<Scheduler> make_of(int64_t steps, double shift) {
  return std::make_unique<Kind>(schedule(steps, shift));
}

/// All that there is to know of a solver; the first one is the default.
constexpr Solver kSolvers[] = {
    {"unipc", make_of<UniPC, unipc_schedule>},
    {"dpm++", make_of<DpmPlusPlus, dpmpp_schedule>},  // the official DPM-Solver++ 2M
    {"euler", make_of<Euler, euler_schedule>},
    {"diffusers_unipc", make_of<UniPC, diffusers_unipc_schedule>},  // the noise levels of diffusers
};

}  // namespace

const std::vector<std::string>& solver_names() {
  static const auto names = [] {
    std::vector<std::string> all;
    for (const auto& solver : kSolvers) all.push_back(solver.name);
    return all;
  }();
  return names;
}

std::unique_ptr<Scheduler> make_scheduler(const std::string& solver, int64_t steps, double shift) {
  if (steps < 1)
    throw wanpar::Error(fmt::format("scheduler: {} steps asked for; at least 1 is needed", steps));
  if (!(shift > 0))
    throw wanpar::Error(fmt::format("scheduler: the shift is {} and should be above 0", shift));
  const auto* found = std::ranges::find(kSolvers, solver, &Solver::name);
  if (found == std::end(kSolvers))
    throw wanpar::Error(fmt::format("scheduler: there is no solver '{}'; choose one of {}", solver,
                                    fmt::join(solver_names(), ", ")));
  return found->make(steps, shift);
}

}  // namespace wan
