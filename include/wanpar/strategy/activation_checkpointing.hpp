#pragma once
#include <wanpar/extend/module/wrapped.hpp>

#include <memory>
#include <vector>

//  ActivationCheckpointing: of each block only what goes in is kept; backward runs the block once more.
//
//     forward    x0 ─▶ block 0 ─▶ x1 ─▶ block 1 ─▶ x2 ─▶ block 2 ─▶ y          kept: x0, x1, x2
//     backward   block 0, again from x0 ◀─ block 1, again from x1 ◀─ block 2, again from x2
//
//  Memory for the activations of one block instead of all, for the time of one more forward. exact
namespace wanpar {

struct ActivationCheckpointingOptions {};

class ActivationCheckpointingStrategy {
 public:
  using Options = ActivationCheckpointingOptions;
  static constexpr bool kByBlocks = true;
  ActivationCheckpointingStrategy(Options, const ModuleTensors&) {}

  bool is_alone() const { return false; }
  std::vector<Communicator> groups() const { return {}; }
  /// The module is kept for as long as a backward may run its blocks.
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;
};

/// A module whose blocks run once more in backward, instead of keeping what they made in forward. It knows
/// the blocks that BlockPipeline knows, and composes with every strategy, inside or outside of it: the second
/// run has the same split tokens, the same sharded weights, the same autocast and the same random numbers.
///
/// Without gradients it does nothing. Throws Error, in forward, for a module without blocks and for a block
/// that writes to what it is given or to its buffers (batch norm in training); in backward, for create_graph,
/// for torch::autograd::grad, and for a block that did not do the same again, or not with the same values.
/// What a block keeps (a loss in a member) has its gradient, and keeps alive what that needs.
template <class Module>
using ActivationCheckpointing = Wrapped<Module, ActivationCheckpointingStrategy>;

/// `model | activation_checkpointing()`.
inline auto activation_checkpointing(ActivationCheckpointingOptions options = {}) {
  return Closure<ActivationCheckpointing, ActivationCheckpointingOptions>(options);
}

}  // namespace wanpar
