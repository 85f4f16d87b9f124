#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/block_ranges.hpp>

#include <memory>
#include <vector>

//  BlockDistribution: one process, several devices, each with a range of the blocks; the activation moves
//  from one to the next.
//
//     cuda:0   before   blocks 0 1 2 ─┐                       ┌─▶ after
//     cuda:1                          └─▶ 3 4 5 ─┐            │
//     cuda:2                                     └─▶ 6 7 8 ───┘
//
//  For a module too large for one device. No speed-up for a single request: one device works at a time. exact
namespace wanpar {

struct BlockDistributionOptions {
  /// The device of each range of blocks, in order. The rest of the module stays where it is.
  std::vector<at::Device> devices;
  BlockSplit ranges = Equally{};
};

class DistributionEngine;

class BlockDistributionStrategy {
 public:
  using Options = BlockDistributionOptions;
  static constexpr bool kByBlocks = true;
  BlockDistributionStrategy(Options options, const ModuleTensors& tensors);

  bool is_alone() const { return false; }
  std::vector<Communicator> groups() const { return {}; }
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;
  /// Blocks cannot be moved off their devices.
  static void check_to(at::Device device);
  static void check_to(at::ScalarType) {}

 private:
  std::shared_ptr<DistributionEngine> engine_;
};

/// A module whose blocks are placed on several devices of this process (naive model parallelism). The first
/// pass moves each block's parameters and buffers to its device; every pass moves activations and side
/// tensors along, and the result back to the device of x. Gradients are LibTorch's own. It supports the same
/// modules as BlockPipeline.
///
/// Wrap the module before constructing an optimizer, whose state would not be moved. Throws Error for a
/// module without blocks, or whose block stack does not list its parameters.
template <class Module>
using BlockDistribution = Wrapped<Module, BlockDistributionStrategy>;

/// `model | block_distribution({.devices = {{at::kCUDA, 0}, {at::kCUDA, 1}}})`.
inline auto block_distribution(BlockDistributionOptions options) {
  return Closure<BlockDistribution, BlockDistributionOptions>(std::move(options));
}

}  // namespace wanpar
