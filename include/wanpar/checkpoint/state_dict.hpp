#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <concepts>
#include <filesystem>
#include <type_traits>
#include <utility>
#include <vector>

namespace torch::optim {
class Optimizer;
}

//  Checkpoints are saved by name, and can be loaded with any sharding, on any number of ranks:
//
//     4 ranks     [··|··|··|··]  each its shards    checkpoint/00000-of-00004.safetensors … 00003-of-00004
//                        ▼                          checkpoint/index.json: which elements are where
//     6 ranks    [·|··|·|··|·|·]                    each reads the elements that it holds, and no others
//     1 rank      [··········]
namespace wanpar {

/// References to the state of a training run: saving reads it, loading writes to it in place.
///
///     torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(1e-3));
///     auto state = wanpar::state_dict(model, {&optimizer});
///     wanpar::save_state_dict(state, "runs/1/checkpoint", world);
///
/// Add anything else that is replicated on all ranks under a name (the step number), and anything that is
/// sharded like the parameters (averaged weights: a copy of `tensors` with other names and tensors).
struct StateDict {
  /// Unsharded tensors, or shards with their metadata. What several ranks hold must be equal on all of them.
  NamedTensors tensors = {};
  /// Saved from the first rank that has them.
  NamedTensors buffers = {};
  /// LibTorch's SGD, Adam, AdamW, RMSprop or Adagrad, over `tensors`; they must outlive this.
  std::vector<torch::optim::Optimizer*> optimizers = {};
};

/// The parameters and buffers of a module, wrapped or not, and the state and options of the optimizers over
/// its parameters.
template <class Module>
requires(!std::same_as<std::remove_cvref_t<Module>, NamedTensors>) StateDict
    state_dict(Module& module, std::vector<torch::optim::Optimizer*> optimizers = {}) {
  return {named_parameters(module), named_buffers(module), std::move(optimizers)};
}

/// Collective over all ranks of the training run. Writes a folder, on a file system that all ranks see, with
/// one safetensors file per rank: what only this rank holds, and a share of what several hold. The folder
/// appears complete or not at all; it replaces an earlier checkpoint, and nothing else. Throws Error on every
/// rank if ranks hold different values of a tensor, if elements are on no rank, for an unsupported optimizer
/// or one over tensors without a name, and if the disk fails.
void save_state_dict(const StateDict& state, const std::filesystem::path& folder, const Communicator& world);

/// Collective. Loads a checkpoint into `state`, including the optimizers' state and group options, whatever
/// the number of ranks and the sharding that wrote it. A state without optimizers loads the weights only.
/// Throws Error on every rank, before anything is changed, for a file that is missing, truncated or altered,
/// for tensors of other names, shapes or dtypes, other optimizers, groups, or parameters in a group.
void load_state_dict(const StateDict& state, const std::filesystem::path& folder, const Communicator& world);

}  // namespace wanpar
