#include <ATen/ops/tanh.h>

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include "fixture.hpp"
#include "reference.hpp"
#include "wan/scheduler/flow.hpp"
#include "wan/scheduler/scheduler.hpp"

using namespace wan_test;

namespace scheduler_test {
namespace {

struct Run {
  std::string solver;
  int64_t steps;
  double shift;

  at::Tensor kept(const std::string& what) const {
    return reference(fmt::format("sched.{}.{}.{:g}.{}", solver, steps, shift, what));
  }
};

std::vector<Run> runs() {
  std::vector<Run> all;
  for (const std::string solver : {"unipc", "dpm++", "euler", "diffusers_unipc"})
    for (const auto& [steps, shift] : {std::pair{1, 5.0}, {2, 3.0}, {5, 5.0}, {20, 3.0}, {50, 8.0}})
      all.push_back({solver, steps, shift});
  return all;
}

at::Tensor floats(const std::vector<double>& values) { return at::tensor(values, at::kFloat); }

}  // namespace

TEST_CASE("the timesteps are those of the reference") {
  for (const auto& run : runs()) {
    CAPTURE(run.solver);
    CAPTURE(run.steps);
    const auto timesteps = floats(wan::make_scheduler(run.solver, run.steps, run.shift)->timesteps());
    CHECK(difference(timesteps, run.kept("timesteps")) < 2e-7);
  }
}

TEST_CASE("the noise levels are those of the reference") {
  const std::map<std::string, wan::FlowSchedule (*)(int64_t, double)> schedules = {
      {"unipc", wan::unipc_schedule},
      {"dpm++", wan::dpmpp_schedule},
      {"euler", wan::euler_schedule},
      {"diffusers_unipc", wan::diffusers_unipc_schedule}};
  for (const auto& run : runs()) {
    CAPTURE(run.solver);
    CAPTURE(run.steps);
    CHECK(difference(floats(schedules.at(run.solver)(run.steps, run.shift).sigmas), run.kept("sigmas")) <
          1e-7);
  }
}

TEST_CASE("every solver takes the path of the reference") {
  const auto c = reference("sched.c");
  for (const auto& run : runs()) {
    CAPTURE(run.solver);
    CAPTURE(run.steps);
    const auto scheduler = wan::make_scheduler(run.solver, run.steps, run.shift);
    const auto path = run.kept("path");
    auto sample = reference("sched.start");
    for (int64_t i = 0; i < run.steps; ++i) {
      const auto velocity = 0.8 * at::tanh(sample) + scheduler->timesteps()[i] / 1000 * c;
      sample = scheduler->step(velocity, sample);
      CHECK(difference(sample, path[i + 1]) < 1e-5);
    }
  }
}

TEST_CASE("every solver finds data that the velocity points at, in any number of steps") {
  const auto data = reference("sched.c"), noise = reference("sched.start");
  for (const auto& run : runs()) {
    CAPTURE(run.solver);
    CAPTURE(run.steps);
    const auto scheduler = wan::make_scheduler(run.solver, run.steps, run.shift);
    auto sample = noise;
    for (int64_t i = 0; i < run.steps; ++i) sample = scheduler->step(noise - data, sample);
    // Lists that start below 1 take the noise for a sample that already holds a little of the data.
    CHECK(difference(sample, data) < 2e-3);
  }
}

TEST_CASE("make_scheduler refuses what it cannot make, and names what it can") {
  const auto refusal = [](const std::string& solver, int64_t steps, double shift) {
    return message_of([&] { wan::make_scheduler(solver, steps, shift); });
  };
  CHECK(says(refusal("ddim", 5, 3.0), "ddim", "unipc", "dpm++", "euler", "diffusers_unipc"));
  CHECK(says(refusal("unipc", 0, 3.0), "0 steps"));
  CHECK(says(refusal("unipc", 5, 0.0), "shift"));
}

TEST_CASE("a scheduler refuses a step after its last") {
  const auto scheduler = wan::make_scheduler("euler", 1, 3.0);
  const auto x = at::zeros({2});
  scheduler->step(x, x);
  CHECK(says(message_of([&] { scheduler->step(x, x); }), "all 1 steps are done"));
}

}  // namespace scheduler_test
