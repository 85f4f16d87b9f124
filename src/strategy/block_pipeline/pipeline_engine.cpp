#include "strategy/block_pipeline/pipeline_engine.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <wanpar/core/agreement.hpp>

#include "core/flag.hpp"
#include "module/deferred.hpp"
#include "module/gradient_reduction.hpp"
#include "module/no_blocks.hpp"
#include "module/same_module.hpp"
#include "module/storage_memory.hpp"
#include "strategy/block_pipeline/micro_batches.hpp"
#include "strategy/block_pipeline/pipeline_tape.hpp"

namespace wanpar {
namespace {

/// A line for each option that every rank must give alike.
std::string text_of(const BlockPipelineOptions& options) {
  auto text = fmt::format("micro_batches {}\nranges ", options.micro_batches);
  if (auto* ranges = std::get_if<BlockRanges>(&options.ranges))
    for (auto& range : *ranges) text += fmt::format("[{}, {}) ", range.begin, range.end);
  else if (auto* profile = std::get_if<BySeconds>(&options.ranges))
    text += fmt::format("by seconds {}", fmt::join(profile->seconds, ", "));
  else if (std::holds_alternative<ByBytes>(options.ranges))
    text += "by bytes";
  else
    text += "equally";
  for (size_t i = 0; i < options.side.size(); ++i)
    text += fmt::format("\nside {} {}", i, options.side[i] == Side::cut ? "cut" : "whole");
  return text;
}

/// What decides the shapes of a pass, and where gradients go.
std::string signature(size_t stack, const at::Tensor& x, const std::vector<at::Tensor>& side,
                      size_t micro_batches, const NamedTensors& parameters) {
  auto kind = [](const at::Tensor& t) {
    return t.defined() ? fmt::format("{}{}{}", c10::toString(t.scalar_type()), t.sizes(), t.requires_grad())
                       : std::string("none");
  };
  auto text = fmt::format("{} {} {} {}", stack, micro_batches, at::GradMode::is_enabled(), kind(x));
  for (auto& tensor : side) text += " " + kind(tensor);
  return text + " " + trained_among(parameters);
}

}  // namespace

std::string trained_among(const NamedTensors& parameters) {
  std::string text;
  for (auto& [name, tensor] : parameters) text += tensor.requires_grad() ? '1' : '0';
  return text;
}

PipelineEngine::PipelineEngine(BlockPipelineOptions options, NamedTensors parameters, NamedTensors buffers)
    : options_(std::move(options)), parameters_(std::move(parameters)) {
  require_same("BlockPipeline", "options", {stages()}, text_of(options_));
  if (options_.micro_batches < 1)
    throw Error(
        fmt::format("BlockPipeline: {} micro-batches; there must be at least 1", options_.micro_batches));
  auto all = parameters_;
  all.insert(all.end(), buffers.begin(), buffers.end());
  holds_own_stage_only_ = require_same_or_own("BlockPipeline", stages(), all);
}

void PipelineEngine::begin() {
  next_stack_ = 0;
  if (!passage_) {
    trace_.clear();
    if (!is_examined_) use_.examine(at::GradMode::is_enabled());
  }
}

void PipelineEngine::end() {
  if (next_stack_ == 0) refuse_without_blocks("BlockPipeline");
  if (!use_.is_examining()) return;
  check_use(ParameterUse::Shared::refused);
  is_examined_ = true;
  use_.examine(false);
}

void PipelineEngine::end_passage() const {
  if (!passage_->left.defined()) refuse_without_blocks("BlockPipeline");
}

PipelineStack& PipelineEngine::stack_for(const BlockStack& blocks) {
  if (next_stack_ == stacks_.size()) {
    stacks_.emplace_back(blocks, options_.ranges, stages());
    stacks_.back().check_memory();
  }
  auto& stack = stacks_[next_stack_++];
  if (stack.size() != blocks.size)
    throw Error(
        fmt::format("BlockPipeline: a stack of {} blocks had {} in an earlier pass; wrap the module anew "
                    "when its blocks change",
                    blocks.size, stack.size()));
  return stack;
}

at::Tensor PipelineEngine::run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                                      const NextBlocks& next) {
  if (is_inside_) return next(blocks, std::move(x), std::move(side));  // a loop inside of a block
  auto& stack = stack_for(blocks);
  if (!passage_) return run_whole(stack, blocks, std::move(x), std::move(side), next);

  if (innermost<GradientReduction>())
    throw Error(
        "BlockPipeline: train_step around a DataParallel, most of whose stages never see its result; wrap "
        "the module without it, and name its group in TrainOptions::replicas");
  if (passage_->left.defined())
    throw Error(
        "BlockPipeline: train_step trains a module with one block stack, this one has several; use "
        "backward()");
  use_.ignore(passage_->received);
  if (!is_first()) x = substitute(x, passage_->received);
  passage_->left = use_.is_examining()
                       ? run_and_check(stack, blocks, std::move(x), std::move(side), next, passage_->is_cut)
                       : run_mine(stack, blocks, std::move(x), std::move(side), next);
  return is_last() ? passage_->left : at::Tensor();  // what comes after the blocks is the last stage's
}

at::Tensor PipelineEngine::run_mine(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                                    std::vector<at::Tensor> side, const NextBlocks& next) {
  Flag inside(is_inside_);
  return next(stack.part(blocks), std::move(x), std::move(side));
}

at::Tensor PipelineEngine::run_and_check(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                                         std::vector<at::Tensor> side, const NextBlocks& next, bool is_cut) {
  auto versions = stack.versions();
  auto y = run_mine(stack, blocks, std::move(x), std::move(side), next);
  if (is_cut && versions != stack.versions())
    throw Error(
        "BlockPipeline: a block writes to its own buffers, as a batch norm in training does: on "
        "micro-batches that gives another result than on the batch; call eval(), or set micro_batches to 1");
  return y;
}

at::Tensor PipelineEngine::run_whole(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                                     std::vector<at::Tensor> side, const NextBlocks& next) {
  for (auto* handler : handlers())
    if (auto* reduction = dynamic_cast<GradientReduction*>(handler)) reduction->defer();
  check_use(ParameterUse::Shared::refused);
  if (x.dim() == 0 && options_.micro_batches > 1)
    throw Error("BlockPipeline: a tensor without dimensions cannot be cut into micro-batches");
  auto samples = x.dim() > 0 ? x.size(0) : 1;
  auto sizes = micro_batch_sizes(samples, options_.micro_batches);
  auto cut = sides_of(side, options_.side, samples, sizes.size());
  auto count = static_cast<int64_t>(sizes.size());
  auto& known = learnt_[signature(next_stack_, x, side, sizes.size(), parameters_)];
  bool is_first_pass = known.empty();
  stack.begin_pass();

  std::shared_ptr<PipelineTape> tape;
  if (at::GradMode::is_enabled())
    tape = std::make_shared<PipelineTape>(shared_from_this(), sizes, x, side, cut);
  auto side_of = [&](int64_t m) {
    if (tape) return tape->side(m);
    std::vector<at::Tensor> mine;
    for (size_t i = 0; i < side.size(); ++i)
      mine.push_back(cut[i] == Side::cut && side[i].defined() ? samples_of(side[i], sizes, m) : side[i]);
    return mine;
  };

  std::vector<at::Tensor> results;  // of the last stage
  StageWork work;
  work.forward = [&](int64_t m, at::Tensor received) {
    use_.ignore(received);
    auto entered = received.defined() ? substitute(x, received) : at::Tensor();
    if (tape)
      entered = tape->enter(m, entered);
    else if (!entered.defined())
      entered = samples_of(x, sizes, m);
    use_.ignore(entered);
    auto beside = side_of(m);
    for (auto& tensor : beside) use_.ignore(tensor);

    auto y = is_first_pass && m == 0
                 ? run_and_check(stack, blocks, std::move(entered), std::move(beside), next, count > 1)
                 : run_mine(stack, blocks, std::move(entered), std::move(beside), next);
    if (m == 0) check_use(ParameterUse::Shared::refused);
    if (tape) tape->leave(m, y);
    if (is_last()) results.push_back(y.detach());
    return y;
  };

  StageRunner runner(stages(), x.device(), sizes, std::move(work), trace_);
  if (is_first_pass) known = runner.learn([&](int) { return count > 1; });
  bool ahead = !stages().transport()->begins_together();
  runner.run(fill_and_drain(stages().rank(), stages().size(), count, ahead), known);

  auto& last = known.back();
  auto shape = last.shape;
  if (count > 1) shape[0] = samples;
  at::Tensor result;
  {
    Plain plain;
    if (is_last())
      result = count == 1 ? std::move(results[0]) : at::cat(results);
    else
      result = at::empty(shape, x.options().dtype(last.dtype).requires_grad(false));
    results.clear();
    result = stages().broadcast(std::move(result), stages().size() - 1).get();
  }
  if (tape && last.requires_grad) result = PipelineTape::attach(tape, std::move(result), known);
  return substitute(x, std::move(result));
}

void PipelineEngine::rebalance(const Communicator& replicas) {
  if (stacks_.empty()) throw Error("BlockPipeline: rebalance() needs a pass before it");
  check_memory("rebalance", [](auto& item) { return !is_claimed(item.tensor); });
  if (is_trained_) synchronize();
  for (auto& stack : stacks_) stack.rebalance(replicas);
  learnt_.clear();
  is_examined_ = false;
}

/// Collective. Parameters that were constructed deferred, and loaded by their own stage alone, cannot leave
/// it; nor can sharded ones, whose memory comes and goes.
void PipelineEngine::check_memory(std::string_view what,
                                  const std::function<bool(const NamedTensor&)>& counts) {
  auto is_missing = [&](auto& item) { return is_deferred(item.tensor) && counts(item); };
  if (holds_own_stage_only_ ||
      on_any_rank(stages(), std::any_of(parameters_.begin(), parameters_.end(), is_missing)))
    throw Error(fmt::format(
        "BlockPipeline: {}() needs every parameter to have memory on every rank, and some are sharded, or "
        "constructed deferred and loaded for their own stage only; load them on every rank first",
        what));
}

void PipelineEngine::synchronize() {
  if (stacks_.empty() && stages().size() > 1)
    throw Error("BlockPipeline: synchronize() needs a pass before it");
  check_memory("synchronize", [](auto&) { return true; });
  for (auto& stack : stacks_) stack.synchronize();
}

}  // namespace wanpar
