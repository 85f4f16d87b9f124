#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "whole_gradients.hpp"

/// What every strategy and composition must do, whatever the module: wrapped equals unwrapped.

/// A module that knows nothing of ranks, and what it is called with.
struct Subject {
  std::string name;
  /// Drawn from the generator as it stands; each rank makes its own.
  std::function<wanpar::Model(at::ScalarType dtype)> make;
  /// Real numbers in float64, and whole ones.
  std::function<std::vector<at::Tensor>(int64_t batch, int64_t length)> inputs;
  std::vector<int64_t> batch = {0};                          ///< the inputs whose dimension 0 is the batch
  std::vector<wanpar::Cut> tokens = {{.arg = 0, .dim = 1}};  ///< where they lie
  /// The same module met as a stack of blocks; left out where it cannot be.
  std::function<wanpar::Model(at::ScalarType dtype)> stacked = {};
  int64_t blocks = 0;
  std::vector<wanpar::Side> side = {};  ///< what blocks are given beside x
};

/// Transformer, UNet, decoder, Sequential, TorchScript.
const std::vector<Subject>& subjects();

using Gradients = std::map<std::string, at::Tensor>;

/// A rank's module, wrapped.
struct Wrapped {
  wanpar::Model model;
  /// The gradients of all parameters, whole, by the module's names; they are gone then. Empty where the
  /// composition runs without gradients only.
  std::function<Gradients()> take_gradients;
  /// Gradients are averaged over ranks whose losses differ.
  bool averages = false;
};

/// The gradients that a backward leaves with the parameters themselves.
std::function<Gradients()> gradients_of(wanpar::Model model);
/// Those that it leaves with shards: `sharded` is a ShardedParams.
template <class Sharded>
std::function<Gradients()> gradients_of_shards(Sharded sharded) {
  return [sharded]() mutable {
    auto all = whole_gradients(sharded);
    for (auto& shard : sharded.parameters()) shard.mutable_grad().reset();
    return all;
  };
}

/// How one rank's module is wrapped. Collective.
using Wrap = std::function<Wrapped(wanpar::Model, const Subject&, wanpar::Communicator world)>;

/// A strategy, or several around one another.
struct Strategy {
  std::string name;
  Wrap wrap;
  bool wants_blocks = false;   ///< it is given the module as a stack of blocks
  bool refuses_alone = false;  ///< one rank alone is not simply the bare module
};

/// Each subject on each world: two calls in a row, two shapes in a row, fewer samples and fewer tokens than
/// ranks; float64 to 1e-9 with gradients and in no_grad, float32 to 1e-5 in inference mode. What a strategy
/// cannot carry out must be refused on every rank.
void conform(const Strategy& strategy, const std::vector<Subject>& modules = subjects(),
             const std::vector<int>& sizes = {1, 2, 3, 4, 6, 8});
