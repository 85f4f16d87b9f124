#pragma once
#include <wanpar/strategy/patch_parallel.hpp>

#include <span>

#include "strategy/patch_parallel/patch_steps.hpp"
#include "strategy/patch_parallel/sight.hpp"
#include "strategy/split/split_ranks.hpp"

namespace wanpar {

/// The ranks of a PatchParallel, one patch each; steps may be displaced.
class PatchGroup : public SplitRanks {
 public:
  PatchGroup(const PatchParallelOptions& options, std::shared_ptr<PatchSteps> steps)
      : SplitRanks(options.group, options.ulysses), options_(options), steps_(std::move(steps)) {}

  TokenLayout layout(int64_t total) const override { return {total, slow().size(), fast().size(), false}; }
  std::optional<SplitPlacement> placement(int64_t extent, int64_t dim) const override;
  std::optional<SplitPlacement> placement_of_tokens(int64_t tokens, int64_t dim,
                                                    const std::optional<TokenGrid>& grid) const override;
  at::Tensor attention(const Attention& call) const override;
  at::Tensor with_halo(const at::Tensor& part, int64_t dim, const TokenLayout& layout, int64_t left,
                       int64_t right) const override;
  std::optional<at::Tensor> moments(const std::function<at::Tensor()>& sums, double here) const override;
  const std::string& name() const override;
  const char* axes() const override { return ".group and .ulysses"; }

 private:
  void check_patches(int64_t count, int64_t ranks, int64_t patches, const char* what) const;
  /// The layout of `count` rows or frames over all ranks.
  std::shared_ptr<const TokenLayout> dealt(int64_t count, const char* what) const;
  SplitPlacement in_both(const TokenGrid& grid, int64_t dim) const;
  std::optional<Reach> reach() const;
  /// Starts an all-gather of each patch's `own`, to `all_extent` along `dim`, and stores it in `buffer` for
  /// the next step; returns it in synchronous steps, nullopt in displaced ones.
  std::optional<at::Tensor> gathered(StaleBuffer& buffer, at::Tensor own, int64_t dim,
                                     std::span<const int64_t> extents, int64_t all_extent) const;

  PatchParallelOptions options_;
  std::shared_ptr<PatchSteps> steps_;
};

}  // namespace wanpar
