#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/module/block_ranges.hpp>
#include <wanpar/module/blocks_region.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/wrapper.hpp>

#include <memory>
#include <vector>

//  BlockDistribution: one process, several devices, each with a range of the blocks; the activation moves
//  from one to the next.
//
//     cuda:0   before   blocks 0 1 2 ─┐                       ┌─▶ after
//     cuda:1                          └─▶ 3 4 5 ─┐            │
//     cuda:2                                     └─▶ 6 7 8 ───┘
//
//  For a module too large for one device. One request is not faster for it: one device works at a time. exact
namespace wanpar {

struct BlockDistributionOptions {
  /// Where the ranges of blocks lie, in order. The rest of the module stays where it is.
  std::vector<at::Device> devices;
  BlockSplit ranges = Equally{};
};

class DistributionEngine;

namespace detail {

std::shared_ptr<DistributionEngine> make_distribution_engine(BlockDistributionOptions options);

/// A forward through the module over its devices.
BlocksRegion distributed_region(const std::shared_ptr<DistributionEngine>& engine);

}  // namespace detail

/// A module whose blocks lie on several devices of this process. In the first pass each block's parameters
/// and buffers are moved to its device; activations and side tensors follow in every pass, and the result
/// comes back to where x was. Gradients flow, by LibTorch's own means. It cuts what BlockPipeline cuts.
///
/// Wrap before making an optimizer, whose state would stay behind. Throws Error for a module without blocks,
/// or whose stack does not list its parameters.
template <class Module>
class BlockDistribution : public Wrapper<Module> {
 public:
  BlockDistribution(Module module, BlockDistributionOptions options)
      : Wrapper<Module>(std::move(module)),
        by_blocks_(module_),
        engine_(detail::make_distribution_engine(std::move(options))) {}

  template <class... Args>
  requires RunsByBlocks<Module, Args...>
  auto operator()(Args&&... args) {
    return detail::distributed_region(engine_).run(
        [&] { return by_blocks_(module_, std::forward<Args>(args)...); });
  }

  template <class... Args>
  requires RunsByBlocks<Module, Args...>
  auto forward(Args&&... args) { return (*this)(std::forward<Args>(args)...); }

 private:
  using Wrapper<Module>::module_;
  ByBlocks<Module> by_blocks_;
  std::shared_ptr<DistributionEngine> engine_;
};

/// `model | block_distribution({.devices = {{at::kCUDA, 0}, {at::kCUDA, 1}}})`.
inline auto block_distribution(BlockDistributionOptions options) {
  return detail::Closure<BlockDistribution, BlockDistributionOptions>(std::move(options));
}

}  // namespace wanpar
