#include <fmt/format.h>
#include <wanpar/core/error.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "strategy/sequence_parallel/sequence_group.hpp"
#include "strategy/split/split_forward.hpp"

namespace wanpar {
namespace {

/// The options that must be equal on every rank, as text.
std::string text_of(const SequenceParallelOptions& options) {
  return fmt::format("balance_causal {}\nmin_share {}", options.balance_causal, options.min_share) +
         text_of(options.split, options.gather);
}

}  // namespace

SequenceParallelStrategy::SequenceParallelStrategy(Options options, const ModuleTensors& tensors) {
  if (options.min_share < 1)
    throw UsageError(
        fmt::format("SequenceParallel: .min_share is {}; give 1 or more tokens", options.min_share));
  const auto text = text_of(options);
  group_ = std::make_shared<SequenceGroup>(std::move(options));
  module_ = std::make_shared<SplitModule>(group_->name(), group_->grid(), text, tensors.parameters);
}

bool SequenceParallelStrategy::is_alone() const { return group_->size() == 1; }

std::vector<Communicator> SequenceParallelStrategy::groups() const { return group_->grid(); }

std::unique_ptr<ForwardScope> SequenceParallelStrategy::begin_forward(const Arguments& arguments,
                                                                      std::shared_ptr<void>) const {
  auto& options = group_->options();
  return std::make_unique<SplitForward>(group_, SplitEnds{options.split, options.gather}, module_, arguments);
}

}  // namespace wanpar
