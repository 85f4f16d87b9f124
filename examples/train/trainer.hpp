#pragma once
#include <atomic>
#include <filesystem>
#include <optional>
#include <ostream>
#include <string>
#include <wanpar/core/communicator.hpp>

#include "train/adamw.hpp"
#include "train/task.hpp"
#include "train/trainee.hpp"

namespace wan::train {

struct TrainerOptions {
  std::filesystem::path folder;  ///< where all that a run writes lies
  std::filesystem::path init;    ///< another run's folder, whose weights to begin with; empty: none
  int64_t batch = 8;             ///< samples a step, of all ranks together
  int64_t accumulate = 1;        ///< parts in which a rank computes its samples
  Schedule schedule;
  AdamWOptions adamw;
  double clip = 1;
  double average = 0.999;  ///< of the weights' moving average stays each step
  int64_t save_every = 200, sample_every = 1000, print_every = 20;
  std::optional<double> seconds;  ///< then it stops, to be resumed
  std::string settings;           ///< what a resumed run must have alike
};

/// Collective. Trains until the schedule ends, time is up, or `stop` is set; begins where the folder's
/// checkpoint ended. Rank 0 writes losses.csv, losses.svg, state.safetensors, samples, and the trained part
/// of a checkpoint of the average weights, `folder`/checkpoint; it tells `log` how far it is.
///
/// A run that was killed goes on at its last checkpoint with the same losses, on any number of ranks that
/// shares the batch evenly.
void train(Trainee& trainee, Task& task, const wanpar::Communicator& world, const TrainerOptions& options,
           const std::atomic<bool>& stop, std::ostream& log);

}  // namespace wan::train
