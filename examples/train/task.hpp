#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/state.hpp"
#include "train/trainee.hpp"

namespace wan::train {

/// Some samples of a step: `count` of them from number `first` on, of the `all` that all ranks have.
struct Share {
  int64_t step, first, count, all;
};

/// What is trained, and on what.
class Task {
 public:
  virtual ~Task() = default;

  /// What losses() gives, by name.
  virtual std::vector<std::string> names() const = 0;
  /// Losses of the mean sample, each [1]; the first is the one to be made small. The same samples give the
  /// same losses on any rank.
  virtual std::vector<at::Tensor> losses(Trainee& trainee, const Share& share) = 0;
  /// Collective. Tries the network on something unseen, writes into `folder` what came of it, and says it.
  virtual std::string sample(Trainee& trainee, const wanpar::Communicator& world, int64_t step,
                             const std::filesystem::path& folder) = 0;
  /// Rank 0: writes a network of these weights into a checkpoint folder.
  virtual void write(const NamedTensors& weights, const std::filesystem::path& checkpoint) = 0;
};

}  // namespace wan::train
