#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/module/placement.hpp>
#include <wanpar/strategy/block_pipeline.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

// What every strategy and composition must do, whatever the module: wrapped equals unwrapped.
namespace wanpar::conformance {

/// A module that knows nothing of ranks, and what it is called with.
struct Subject {
  std::string name;
  /// Drawn from the generator as it stands; each rank makes its own.
  std::function<Model(at::ScalarType dtype)> make;
  /// Real numbers in float64, and whole ones.
  std::function<std::vector<at::Tensor>(int64_t batch, int64_t length)> inputs;
  std::vector<int64_t> batch = {0};                         ///< the inputs whose dimension 0 is the batch
  std::vector<SplitInput> tokens = {{.arg = 0, .dim = 1}};  ///< where they lie
  /// The same module met as a stack of blocks; left out where it cannot be.
  std::function<Model(at::ScalarType dtype)> stacked = {};
  int64_t blocks = 0;
  std::vector<Side> side = {};  ///< what blocks are given beside x
};

/// Transformer, UNet, decoder, Sequential.
const std::vector<Subject>& subjects();

/// `stacked` of a module that by_blocks.hpp can cut as it is.
template <class Module>
Model by_blocks(Module module);

using Gradients = std::map<std::string, at::Tensor>;

/// A rank's module, wrapped.
struct WrappedSubject {
  Model model;
  /// The gradients of all parameters, whole, by the module's names; they are gone then. Empty where the
  /// composition runs without gradients only.
  std::function<Gradients()> take_gradients;
  /// Gradients are averaged over ranks whose losses differ.
  bool averages = false;
};

/// The gradients that a backward leaves with the parameters themselves.
std::function<Gradients()> gradients_of(Model model);
/// Those that it leaves with shards, put together: `sharded` is a ShardedParams. Collective when called.
template <class Sharded>
Gradients whole_gradients(Sharded& sharded);
template <class Sharded>
std::function<Gradients()> gradients_of_shards(Sharded sharded);

/// How one rank's module is wrapped. Collective.
using Wrap = std::function<WrappedSubject(Model, const Subject&, Communicator world)>;

/// A strategy, or several around one another.
struct Strategy {
  std::string name;
  Wrap wrap;
  bool wants_blocks = false;   ///< it is given the module as a stack of blocks
  bool refuses_alone = false;  ///< one rank alone is not simply the bare module
};

/// Collective. Each subject: two calls in a row, two shapes in a row, fewer samples and fewer tokens than
/// ranks; float64 to 1e-9 with gradients and in no_grad, float32 to 1e-5 in inference mode. What a strategy
/// cannot carry out must be refused on every rank. Throws Error, which names subject and call, for what does
/// not hold. To be tried with groups of several sizes.
void check_strategy(const Strategy& strategy, const Communicator& world,
                    const std::vector<Subject>& modules = subjects());

namespace detail {

template <class Module>
struct RunByBlocks {
  explicit RunByBlocks(Module m) : module(std::move(m)), blocks(module) {}
  at::Tensor operator()(at::Tensor x) { return blocks(module, std::move(x)); }
  auto named_parameters() { return wanpar::named_parameters(module); }
  auto named_buffers() { return wanpar::named_buffers(module); }

  Module module;
  ByBlocks<Module> blocks;
};

}  // namespace detail

template <class Module>
Model by_blocks(Module module) {
  return detail::RunByBlocks<Module>(std::move(module));
}

template <class Sharded>
Gradients whole_gradients(Sharded& sharded) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> values;
  for (auto& shard : sharded.parameters()) {
    values.push_back(shard.clone());
    shard.copy_(shard.grad().defined() ? shard.grad() : at::zeros_like(shard));
  }
  Gradients all;
  sharded.each_parameter([&](auto& name, auto& value) { all[name] = value.clone(); });
  auto value = values.begin();
  for (auto& shard : sharded.parameters()) shard.copy_(*value++);
  return all;
}

template <class Sharded>
std::function<Gradients()> gradients_of_shards(Sharded sharded) {
  return [sharded]() mutable {
    auto all = whole_gradients(sharded);
    for (auto& shard : sharded.parameters()) shard.mutable_grad().reset();
    return all;
  };
}

}  // namespace wanpar::conformance
