#include <wanpar/strategy/block_distribution.hpp>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include "core/flag.hpp"
#include "module/blocks_scope.hpp"
#include "module/no_blocks.hpp"
#include "module/storage_memory.hpp"

namespace wanpar {
namespace {

const char* kDistribution = "BlockDistribution";

}  // namespace

/// Runs each range of a stack on its device.
class DistributionEngine : public BlocksHandler {
 public:
  explicit DistributionEngine(BlockDistributionOptions options) : options_(std::move(options)) {
    if (options_.devices.empty())
      throw UsageError("BlockDistribution: .devices is empty; name a device for each range of blocks");
  }

  void begin_pass() { next_stack_ = 0; }
  void end_pass() const {
    if (next_stack_ == 0) refuse_without_blocks(kDistribution);
  }

  at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                        const NextBlocks& next) override {
    if (is_inside_) return next(blocks, std::move(x), std::move(side));  // a loop inside a block
    auto& ranges = ranges_for(blocks);
    auto home = x.device();
    Flag inside(is_inside_);
    for (size_t i = 0; i < ranges.size(); ++i) {
      const auto begin = ranges[i].begin;
      BlockStack part{
          ranges[i].size(),
          [begin, run = blocks.run](int64_t index, at::Tensor y, const std::vector<at::Tensor>& beside) {
            return run(begin + index, std::move(y), beside);
          },
          [begin, tensors = blocks.tensors](int64_t index) { return tensors(begin + index); }};
      // A copy to the CPU must be synchronous: CPU operators do not wait for streams.
      auto moved = [device = options_.devices[i]](const at::Tensor& t) {
        return t.to(device, device.is_cuda());
      };
      auto beside = side;
      for (auto& tensor : beside)
        if (tensor.defined()) tensor = moved(tensor);
      x = next(part, moved(x), std::move(beside));
    }
    return x.to(home);
  }

 private:
  const BlockRanges& ranges_for(const BlockStack& blocks) {
    if (next_stack_ == stacks_.size()) stacks_.push_back(place(blocks));
    auto& ranges = stacks_[next_stack_++];
    if (ranges.back().end != blocks.size)
      throw UsageError(
          fmt::format("BlockDistribution: a stack of {} blocks had {} in an earlier pass; wrap the module "
                      "anew when its blocks change",
                      blocks.size, ranges.back().end));
    return ranges;
  }

  BlockRanges place(const BlockStack& blocks) const {
    if (!blocks.tensors)
      throw UsageError(
          "BlockDistribution: the block stack does not list its parameters, so they cannot be moved to their "
          "devices; set BlockStack::tensors");
    auto ranges =
        ranges_of(kDistribution, options_.ranges, blocks, static_cast<int64_t>(options_.devices.size()));
    for (size_t i = 0; i < ranges.size(); ++i)
      for (auto b = ranges[i].begin; b < ranges[i].end; ++b)
        for (auto& [name, tensor] : blocks.tensors(b)) move(b, name, tensor, options_.devices[i]);
    return ranges;
  }

  static void move(int64_t block, const std::string& name, at::Tensor tensor, const at::Device& device) {
    if (tensor.device() == device) return;
    if (is_claimed(tensor))
      throw UsageError(
          fmt::format("BlockDistribution: '{}' of block {} is sharded and cannot be moved from {} to {}; use "
                      "either ShardedParams or BlockDistribution",
                      name, block, tensor.device().str(), device.str()));
    tensor.set_data(tensor.to(device));
  }

  BlockDistributionOptions options_;
  std::vector<BlockRanges> stacks_;
  size_t next_stack_ = 0;
  bool is_inside_ = false;
};

BlockDistributionStrategy::BlockDistributionStrategy(Options options, const ModuleTensors&)
    : engine_(std::make_shared<DistributionEngine>(std::move(options))) {}

std::unique_ptr<ForwardScope> BlockDistributionStrategy::begin_forward(const Arguments&,
                                                                       std::shared_ptr<void>) const {
  engine_->begin_pass();
  return std::make_unique<BlocksScope>(kDistribution, engine_,
                                       [&engine = *engine_](auto&) { engine.end_pass(); });
}

void BlockDistributionStrategy::check_to(at::Device device) {
  throw UsageError(
      fmt::format("BlockDistribution: to({}) would gather the blocks from the devices that they were given; "
                  "wrap the module "
                  "anew with other .devices",
                  device.str()));
}

}  // namespace wanpar
