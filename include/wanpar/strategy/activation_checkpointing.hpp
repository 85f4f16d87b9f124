#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/module/blocks_region.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/wrapper.hpp>

#include <memory>
#include <utility>

//  ActivationCheckpointing: of each block only what goes in is kept; backward runs the block once more.
//
//     forward    x0 ─▶ block 0 ─▶ x1 ─▶ block 1 ─▶ x2 ─▶ block 2 ─▶ y          kept: x0, x1, x2
//     backward   block 0, again from x0 ◀─ block 1, again from x1 ◀─ block 2, again from x2
//
//  Memory for the activations of one block instead of all, for the time of one more forward. exact
namespace wanpar {

namespace detail {

/// A forward through the module, which is kept for as long as a backward may run its blocks.
BlocksRegion checkpointed_region(std::shared_ptr<void> module);

}  // namespace detail

/// A module whose blocks run once more in backward, instead of keeping what they made in forward. It knows
/// the blocks that BlockPipeline knows, and composes with every strategy, inside or outside of it: the second
/// run has the same split tokens, the same sharded weights, the same autocast and the same random numbers.
///
/// Without gradients it does nothing. Throws Error, in forward, for a module without blocks and for a block
/// that writes to what it is given or to its buffers (batch norm in training); in backward, for create_graph,
/// for torch::autograd::grad, and for a block that did not do the same again.
template <class Module>
class ActivationCheckpointing {
 public:
  explicit ActivationCheckpointing(Module module)
      : module_(std::make_shared<Module>(std::move(module))), by_blocks_(*module_) {}

  template <class... Args>
  requires RunsByBlocks<Module, Args...>
  auto operator()(Args&&... args) {
    return detail::checkpointed_region(module_).run(
        [&] { return by_blocks_(*module_, std::forward<Args>(args)...); });
  }

  template <class... Args>
  requires RunsByBlocks<Module, Args...>
  auto forward(Args&&... args) { return (*this)(std::forward<Args>(args)...); }

  Module& inner() { return *module_; }
  /// Those of the wrapped module, by its names.
  NamedTensors named_parameters() { return wanpar::named_parameters(*module_); }
  NamedTensors named_buffers() { return wanpar::named_buffers(*module_); }

 private:
  std::shared_ptr<Module> module_;  // with the backwards to come
  ByBlocks<Module> by_blocks_;
};

/// `model | activation_checkpointing()`.
inline auto activation_checkpointing() { return detail::Closure<ActivationCheckpointing>(); }

}  // namespace wanpar
