#include "strategy/block_pipeline/pipeline_stack.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "module/deferred.hpp"
#include "module/storage_memory.hpp"
#include "module/times_written.hpp"

namespace wanpar {

PipelineStack::PipelineStack(const BlockStack& blocks, const BlockSplit& split, const Communicator& stages)
    : stages_(stages), size_(blocks.size), ranges_(ranges_of("BlockPipeline", split, blocks, stages.size())) {
  for (int64_t i = 0; blocks.tensors && i < size_; ++i) tensors_.push_back(blocks.tensors(i));
  find_owners();
  begin_pass();
}

void PipelineStack::find_owners() {
  owners_.clear();
  for (int stage = 0; stage < stages_.size(); ++stage)
    for (auto i = ranges_[stage].begin; lists_tensors() && i < ranges_[stage].end; ++i)
      for (auto& [name, tensor] : tensors_[i]) {
        auto [known, is_new] = owners_.emplace(tensor.unsafeGetTensorImpl(), stage);
        if (!is_new && known->second != stage) known->second = kSeveral;
      }
}

void PipelineStack::check_memory() const {
  for (auto i = mine().begin; lists_tensors() && i < mine().end; ++i)
    for (auto& [name, tensor] : tensors_[i])
      if (is_deferred(tensor) && !is_claimed(tensor))
        throw UsageError(fmt::format(
            "BlockPipeline: '{}' of block {} has no memory on rank {}, whose stage runs that block; load "
            "each stage's own blocks, in the ranges that .ranges gives",
            name, i, stages_.rank()));
}

BlockStack PipelineStack::part(const BlockStack& blocks) {
  BlockStack part;
  part.size = mine().size();
  part.run = [this, run = blocks.run, begin = mine().begin](int64_t index, at::Tensor x,
                                                            const std::vector<at::Tensor>& side) {
    watch_.start(x.device());
    auto y = run(begin + index, std::move(x), side);
    watch_.stop(index);
    return y;
  };
  if (blocks.tensors)
    part.tensors = [tensors = blocks.tensors, begin = mine().begin](int64_t index) {
      return tensors(begin + index);
    };
  return part;
}

int PipelineStack::owner(const at::Tensor& tensor) const {
  auto known = owners_.find(tensor.unsafeGetTensorImpl());
  return known == owners_.end() ? kOutside : known->second;
}

std::vector<int64_t> PipelineStack::versions() const {
  std::vector<int64_t> versions;
  for (auto i = mine().begin; lists_tensors() && i < mine().end; ++i)
    for (auto& [name, tensor] : tensors_[i]) versions.push_back(times_written(tensor));
  return versions;
}

void PipelineStack::synchronize() const {
  if (!lists_tensors())
    throw UsageError(
        "BlockPipeline: parameters can be given to all ranks only where the stack lists them; set "
        "BlockStack::tensors");
  at::NoGradGuard no_grad;
  std::unordered_set<const at::TensorImpl*> done;
  for (int stage = 0; stage < stages_.size(); ++stage)
    for (auto i = ranges_[stage].begin; i < ranges_[stage].end; ++i)
      for (auto& [name, tensor] : tensors_[i]) {
        if (owner(tensor) != stage || !done.insert(tensor.unsafeGetTensorImpl()).second) continue;
        auto theirs = stages_.broadcast(tensor, stage).get();
        if (stages_.rank() != stage) at::Tensor(tensor).copy_(theirs);
      }
}

void PipelineStack::rebalance(const Communicator& replicas) {
  auto own = watch_.seconds();
  std::vector<int64_t> sizes;
  for (auto& range : ranges_) sizes.push_back(range.size());
  auto all = stages_.all_gather(at::tensor(own, at::kDouble).to(stages_.device()), 0, sizes).get();
  all = replicas.all_reduce(all.to(replicas.device()), ReduceOp::mean).get().cpu();
  std::span<const double> seconds(all.const_data_ptr<double>(), static_cast<size_t>(size_));
  if (std::all_of(seconds.begin(), seconds.end(), [](double s) { return s == 0; }))
    throw UsageError("BlockPipeline: rebalance() needs a pass before it, whose blocks are timed");
  ranges_ = balanced_ranges(seconds, stages_.size());
  find_owners();
  begin_pass();
}

int owner_among(const std::deque<PipelineStack>& stacks, const at::Tensor& tensor) {
  int owner = PipelineStack::kOutside;
  for (auto& stack : stacks) {
    auto here = stack.owner(tensor);
    if (here == PipelineStack::kOutside || here == owner) continue;
    owner = owner == PipelineStack::kOutside ? here : PipelineStack::kSeveral;
  }
  return owner;
}

}  // namespace wanpar
