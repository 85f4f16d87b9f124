#pragma once
#include <wanpar/strategy/sequence_parallel.hpp>

#include "strategy/split/split_ranks.hpp"

namespace wanpar {

/// The ranks of a SequenceParallel, ring × ulysses.
class SequenceGroup : public SplitRanks {
 public:
  explicit SequenceGroup(SequenceParallelOptions options)
      : SplitRanks(options.ring, options.ulysses), options_(std::move(options)) {}

  const SequenceParallelOptions& options() const { return options_; }
  TokenLayout layout(int64_t total) const override {
    return {total, slow().size(), fast().size(), options_.balance_causal};
  }
  std::optional<SplitPlacement> placement(int64_t tokens, int64_t dim) const override;
  at::Tensor attention(const Attention& call) const override;
  const std::string& name() const override;
  const char* axes() const override { return ".ring and .ulysses"; }

 private:
  SequenceParallelOptions options_;
};

}  // namespace wanpar
