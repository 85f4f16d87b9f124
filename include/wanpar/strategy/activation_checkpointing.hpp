#pragma once
#include <wanpar/extend/module/wrapped.hpp>

#include <memory>
#include <vector>

//  ActivationCheckpointing: only the inputs of each block are saved; backward recomputes the block from them.
//
//     forward    x0 ─▶ block 0 ─▶ x1 ─▶ block 1 ─▶ x2 ─▶ block 2 ─▶ y          saved: x0, x1, x2
//     backward   recompute 0 from x0 ◀─ recompute 1 from x1 ◀─ recompute 2 from x2
//
//  Activation memory of one block instead of all, at the cost of one more forward. exact
namespace wanpar {

struct ActivationCheckpointingOptions {};

class ActivationCheckpointingStrategy {
 public:
  using Options = ActivationCheckpointingOptions;
  static constexpr bool kByBlocks = true;
  ActivationCheckpointingStrategy(Options, const ModuleTensors&) {}

  bool is_alone() const { return false; }
  std::vector<Communicator> groups() const { return {}; }
  /// Keeps `module` alive as long as backward may recompute its blocks.
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;
};

/// A module whose blocks are recomputed in backward instead of saving their activations. It supports the same
/// modules as BlockPipeline, and composes with every strategy, inside or outside: the recomputation has the
/// same sharded tokens and weights, the same autocast state and the same random numbers.
///
/// Without gradients it does nothing. Throws Error in forward for a module without blocks, and for a block
/// that writes to its inputs or buffers (batch norm in training); in backward for create_graph, for
/// torch::autograd::grad, and for a block whose recomputation differs from its forward. A tensor that a block
/// stores elsewhere (a loss in a member) keeps its gradient, and the activations that it needs.
template <class Module>
using ActivationCheckpointing = Wrapped<Module, ActivationCheckpointingStrategy>;

/// `model | activation_checkpointing()`.
inline auto activation_checkpointing(ActivationCheckpointingOptions options = {}) {
  return Closure<ActivationCheckpointing, ActivationCheckpointingOptions>(options);
}

}  // namespace wanpar
