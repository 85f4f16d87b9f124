#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <wanpar/core/communicator.hpp>

#include "train/adamw.hpp"
#include "train/trainee.hpp"

namespace wan::train {

/// Tensors of a network by its names, whole, on the CPU.
using NamedTensors = std::map<std::string, at::Tensor>;

/// All that a training is at the end of a step, but for what its options say: the weights, the optimizer's
/// moments, and the moving average of the weights. Everything else follows from the number of the step.
struct State {
  int64_t step = 0;
  AdamW optimizer;
  std::vector<at::Tensor> average;  ///< like the optimizer's parameters
};

/// Where a run in this folder keeps its state.
std::filesystem::path state_file(const std::filesystem::path& folder);

/// Collective. Writes a state whole, by rank 0, so that `file` is either the new or the old one. `settings`
/// are what a run must go on with.
void save(const State& state, Trainee& trainee, const wanpar::Communicator& world,
          const std::filesystem::path& file, const std::string& settings);

/// Collective. Fills a state from such a file, on any number of ranks, sharded in any way. Throws Error where
/// the file is of other settings, and says which line differs, or of another network.
void resume(State& state, Trainee& trainee, const wanpar::Communicator& world,
            const std::filesystem::path& file, const std::string& settings);

/// Collective. Gives the weights, and their average, those of another training's average.
void start_from(State& state, Trainee& trainee, const wanpar::Communicator& world,
                const std::filesystem::path& file);

/// Collective. Values that are like the trainee's parameters, whole: on rank 0, elsewhere none.
NamedTensors gathered(Trainee& trainee, const wanpar::Communicator& world,
                      const std::vector<at::Tensor>& values);

}  // namespace wan::train
