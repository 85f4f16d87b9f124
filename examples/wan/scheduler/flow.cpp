#include "wan/scheduler/flow.hpp"

#include <cmath>

namespace wan {

namespace {

enum class Timesteps { whole, fractional };

double rounded(double value) { return static_cast<float>(value); }

/// `count` values from first to last, both included, rounded as numpy.linspace rounds: a timestep near a
/// whole number is cut to one side or the other by the last bit.
std::vector<double> evenly(double first, double last, int64_t count) {
  const double step = (last - first) / static_cast<double>(count - 1);
  std::vector<double> values(count, first);
  for (int64_t i = 1; i < count; ++i) values[i] = static_cast<double>(i) * step + first;
  if (count > 1) values.back() = last;
  return values;
}

/// `steps` values from first towards last, which would be the next.
std::vector<double> evenly_before(double first, double last, int64_t steps) {
  auto values = evenly(first, last, steps + 1);
  values.pop_back();
  return values;
}

FlowSchedule schedule(std::vector<double> sigmas, Timesteps kind) {
  FlowSchedule result;
  for (const double sigma : sigmas) {
    const double kept = rounded(sigma);
    result.sigmas.push_back(kept);
    result.timesteps.push_back(kind == Timesteps::whole ? std::trunc(1000 * sigma) : rounded(1000 * kept));
  }
  result.sigmas.push_back(0);
  return result;
}

std::vector<double> each_shifted(std::vector<double> sigmas, double shift) {
  for (double& sigma : sigmas) sigma = shifted(sigma, shift);
  return sigmas;
}

}  // namespace

double shifted(double sigma, double shift) { return shift * sigma / (1 + (shift - 1) * sigma); }

FlowSchedule unipc_schedule(int64_t steps, double shift) {
  return schedule(each_shifted(evenly_before(rounded(0.999), 0, steps), shift), Timesteps::whole);
}

FlowSchedule dpmpp_schedule(int64_t steps, double shift) {
  return schedule(each_shifted(evenly_before(1, 0, steps), shift), Timesteps::whole);
}

FlowSchedule diffusers_unipc_schedule(int64_t steps, double shift) {
  auto sigmas = each_shifted(evenly_before(1, 0.001, steps), shift);
  sigmas[0] -= 1e-6;  // it avoids the infinite log_snr of 1
  return schedule(sigmas, Timesteps::whole);
}

FlowSchedule euler_schedule(int64_t steps, double shift) {
  return schedule(each_shifted(evenly(1, rounded(shifted(0.001, shift)), steps), shift),
                  Timesteps::fractional);
}

double log_snr(double sigma) { return std::log(1 - sigma) - std::log(sigma); }

}  // namespace wan
