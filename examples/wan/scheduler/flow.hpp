#pragma once
#include <cstdint>
#include <vector>

namespace wan {

// Flow matching: a sample at noise level sigma is (1 - sigma) * data + sigma * noise, and the model predicts
// the velocity, noise minus data.

/// Noise levels of a run, falling to 0, and the timesteps (0..1000) that the model is told.
struct FlowSchedule {
  std::vector<double> sigmas;     // steps + 1, each rounded to float32 as the reference implementations do
  std::vector<double> timesteps;  // steps
};

/// Moves a noise level towards 1: shift * sigma / (1 + (shift - 1) * sigma).
double shifted(double sigma, double shift);

/// The lists of the official UniPC and DPM++ schedulers, and of UniPCMultistepScheduler (with flow sigmas)
/// and FlowMatchEulerDiscreteScheduler of diffusers. The last shifts its low end twice.
FlowSchedule unipc_schedule(int64_t steps, double shift);
FlowSchedule dpmpp_schedule(int64_t steps, double shift);
FlowSchedule diffusers_unipc_schedule(int64_t steps, double shift);
FlowSchedule euler_schedule(int64_t steps, double shift);

/// Logarithm of the signal-to-noise ratio, ln((1 - sigma) / sigma); infinite at sigma 0 and 1, as intended.
double log_snr(double sigma);

}  // namespace wan
