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

//  A training is saved by names, and goes on in any sharding, on any number of ranks:
//
//     4 ranks     [··|··|··|··]  each its part      checkpoint/00000-of-00004.safetensors … 00003-of-00004
//                        ▼                          checkpoint/index.json: which elements lie where
//     6 ranks    [·|··|·|··|·|·]                    each reads the elements that it holds, and no others
//     1 rank      [··········]
namespace wanpar {

/// What a training consists of, where it lies: saving reads it, loading writes to it. It holds no values of
/// its own.
///
///     torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(1e-3));
///     auto state = wanpar::state_dict(model, {&optimizer});
///     wanpar::save_state_dict(state, "runs/1/checkpoint", world);
///
/// Anything else that ranks hold alike joins it by a name (the number of the step), and so does what they
/// hold like the parameters (a mean of the weights: a copy of `tensors` with other names and tensors).
struct StateDict {
  /// Whole, or shards that say which elements they are. What several ranks hold must be the same there.
  NamedTensors tensors = {};
  /// Those of the first rank that has them count.
  NamedTensors buffers = {};
  /// LibTorch's SGD, Adam, AdamW, RMSprop and Adagrad, over `tensors`: they outlive this.
  std::vector<torch::optim::Optimizer*> optimizers = {};
};

/// Parameters and buffers of a module, wrapped or not, and of the optimizers over its parameters what they
/// remember of each and how their groups are set.
template <class Module>
requires(!std::same_as<std::remove_cvref_t<Module>, NamedTensors>) StateDict
    state_dict(Module& module, std::vector<torch::optim::Optimizer*> optimizers = {}) {
  return {named_parameters(module), named_buffers(module), std::move(optimizers)};
}

/// Collective over all ranks of the training. Writes a folder, which all ranks see, where each rank has a
/// safetensors file of its own: what only it holds, and a share of what several do. The folder appears
/// complete, with its final name, or not at all; it takes the place of a former one, and of nothing else.
/// Throws Error on every rank: where ranks hold other values of one tensor, where elements are on no rank,
/// for another optimizer or one over tensors that have no name, where the disk refuses.
void save_state_dict(const StateDict& state, const std::filesystem::path& folder, const Communicator& world);

/// Collective. Gives `state` the values of a checkpoint, its optimizers what they remembered and the options
/// of each group, whatever ranks and shards wrote it. A state without optimizers takes the weights alone.
/// Throws Error on every rank, before anything is changed, for a file that is missing, truncated or altered,
/// for tensors of other names, shapes or dtypes, other optimizers, groups, or parameters in a group.
void load_state_dict(const StateDict& state, const std::filesystem::path& folder, const Communicator& world);

}  // namespace wanpar
