#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/block_ranges.hpp>

#include <deque>
#include <unordered_map>
#include <vector>

#include "strategy/block_pipeline/stopwatch.hpp"

namespace wanpar {

/// A block stack distributed over stages: the blocks and parameters of each stage, and the times of this
/// stage's blocks.
class PipelineStack {
 public:
  /// Throws Error if the blocks cannot be split so.
  PipelineStack(const BlockStack& blocks, const BlockSplit& split, const Communicator& stages);

  int64_t size() const { return size_; }
  const BlockRanges& ranges() const { return ranges_; }
  /// The blocks of this stage as a stack of their own; runs are timed.
  BlockStack part(const BlockStack& blocks);
  void begin_pass() { watch_.reset(mine().size()); }

  /// Throws Error if a block of this stage was constructed deferred and has not been loaded.
  void check_memory() const;
  /// Whether the blocks list their parameters.
  bool lists_tensors() const { return !tensors_.empty(); }
  static constexpr int kOutside = -1, kSeveral = -2;
  /// The only stage whose blocks hold this parameter or buffer; or kOutside, or kSeveral.
  int owner(const at::Tensor& tensor) const;
  /// The version counters of this stage's buffers and parameters.
  std::vector<int64_t> versions() const;

  /// Collective. Broadcasts the parameters and buffers of each block from its stage.
  void synchronize() const;
  /// Collective. Balances the ranges by the times of the last pass.
  void rebalance(const Communicator& replicas);

 private:
  BlockRange mine() const { return ranges_[stages_.rank()]; }
  void find_owners();

  Communicator stages_;
  int64_t size_;
  BlockRanges ranges_;
  std::vector<NamedTensors> tensors_;  // by block
  std::unordered_map<const at::TensorImpl*, int> owners_;
  Stopwatch watch_;
};

/// The only stage, over all stacks, whose blocks hold a tensor; otherwise PipelineStack::kOutside or
/// kSeveral.
int owner_among(const std::deque<PipelineStack>& stacks, const at::Tensor& tensor);

}  // namespace wanpar
