#include <wanpar/strategy/activation_checkpointing.hpp>

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include "module/blocks_scope.hpp"
#include "module/no_blocks.hpp"
#include "module/recompute.hpp"
#include "module/times_written.hpp"

namespace wanpar {
namespace {

const char* kCheckpointing = "ActivationCheckpointing";

/// The version counters of a block's tensors.
int64_t times_block_written(const BlockStack& blocks, int64_t index) {
  int64_t sum = 0;
  if (!blocks.tensors) return sum;
  for (auto& [name, tensor] : blocks.tensors(index)) sum += times_written(tensor);
  return sum;
}

/// Whether backward may pass through this block.
bool is_trained(const BlockStack& blocks, int64_t index, const at::Tensor& x,
                const std::vector<at::Tensor>& side) {
  auto wants = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  if (!blocks.tensors || wants(x) || std::any_of(side.begin(), side.end(), wants)) return true;
  auto tensors = blocks.tensors(index);
  return std::any_of(tensors.begin(), tensors.end(), [&](auto& t) { return wants(t.tensor); });
}

class Checkpointing : public BlocksHandler {
 public:
  explicit Checkpointing(std::shared_ptr<void> module) : module_(std::move(module)) {}

  /// Call at the end of the forward.
  void end_pass() const {
    if (!has_met_blocks_) refuse_without_blocks(kCheckpointing);
  }

  at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, Tensors side,
                        const NextBlocks& next) override {
    has_met_blocks_ = true;
    auto checkpointed = blocks;
    checkpointed.run = [blocks, module = module_](int64_t index, at::Tensor x,
                                                  const std::vector<at::Tensor>& side) {
      if (!at::GradMode::is_enabled() || !is_trained(blocks, index, x, side))
        return blocks.run(index, std::move(x), side);
      auto part = [run = blocks.run, index, module](at::Tensor x, const std::vector<at::Tensor>& side) {
        return run(index, std::move(x), side);
      };
      auto written = times_block_written(blocks, index);
      auto y = recomputed(part, x, side);
      if (times_block_written(blocks, index) != written)
        throw UsageError(
            "ActivationCheckpointing: a block writes to its buffers, as batch norm does in training, and "
            "would do so a second time in backward; call eval() on that layer, or use one without running "
            "statistics");
      return y;
    };
    return next(checkpointed, std::move(x), std::move(side));
  }

 private:
  std::shared_ptr<void> module_;
  bool has_met_blocks_ = false;
};

}  // namespace

std::unique_ptr<ForwardScope> ActivationCheckpointingStrategy::begin_forward(
    const Arguments&, std::shared_ptr<void> module) const {
  auto handler = std::make_shared<Checkpointing>(std::move(module));
  return std::make_unique<BlocksScope>(kCheckpointing, handler,
                                       [&handler = *handler](auto&) { handler.end_pass(); });
}

}  // namespace wanpar
