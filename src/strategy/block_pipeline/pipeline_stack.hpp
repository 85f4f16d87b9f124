#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/block_ranges.hpp>

#include <deque>
#include <unordered_map>
#include <vector>

#include "strategy/block_pipeline/stopwatch.hpp"

namespace wanpar {

/// A stack of blocks as it is spread over stages: who has which blocks, whose parameters these are, and how
/// long the blocks of this stage take.
class PipelineStack {
 public:
  /// Throws Error when the blocks cannot be spread so.
  PipelineStack(const BlockStack& blocks, const BlockSplit& split, const Communicator& stages);

  int64_t size() const { return size_; }
  const BlockRanges& ranges() const { return ranges_; }
  /// The blocks of this stage as a stack of their own, each timed when it runs.
  BlockStack part(const BlockStack& blocks);
  void begin_pass() { watch_.reset(mine().size()); }

  /// Throws Error where a block of this stage has been constructed deferred and not been loaded.
  void check_memory() const;
  /// Whether the blocks list their parameters.
  bool lists_tensors() const { return !tensors_.empty(); }
  static constexpr int kOutside = -1, kSeveral = -2;
  /// The stage whose blocks, and no others, hold this parameter or buffer; or kOutside, or kSeveral.
  int owner(const at::Tensor& tensor) const;
  /// The versions of this stage's buffers and parameters, which change when one is written to.
  std::vector<int64_t> versions() const;

  /// Collective. Each parameter and buffer of a block, as its stage has it, on every rank.
  void synchronize() const;
  /// Collective. Ranges by the seconds of the last pass.
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

/// The stage whose blocks alone hold a tensor, over all stacks: PipelineStack::kOutside or kSeveral
/// otherwise.
int owner_among(const std::deque<PipelineStack>& stacks, const at::Tensor& tensor);

}  // namespace wanpar
