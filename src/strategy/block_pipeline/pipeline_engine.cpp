#include "strategy/block_pipeline/pipeline_engine.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <wanpar/core/agreement.hpp>

#include "core/flag.hpp"
#include "module/deferred.hpp"
#include "module/gradient_reduction.hpp"
#include "module/leaves.hpp"
#include "module/no_blocks.hpp"
#include "module/same_module.hpp"
#include "module/same_values.hpp"
#include "module/shared_parameters.hpp"
#include "module/split/split_tensor.hpp"
#include "module/storage_memory.hpp"
#include "module/times_written.hpp"
#include "strategy/block_pipeline/micro_batches.hpp"
#include "strategy/block_pipeline/pipeline_tape.hpp"

namespace wanpar {
namespace {

constexpr int64_t kBucketBytes = int64_t{25} << 20;

/// The options that must be equal on every rank, as text.
std::string text_of(const BlockPipelineOptions& options) {
  auto text = fmt::format("micro_batches {}\nsync_module_states {}\nranges ", options.micro_batches,
                          options.sync_module_states);
  if (auto* ranges = std::get_if<BlockRanges>(&options.ranges))
    for (auto& range : *ranges) text += fmt::format("[{}, {}) ", range.begin, range.end);
  else if (auto* profile = std::get_if<BySeconds>(&options.ranges))
    text += fmt::format("by seconds {}", fmt::join(profile->seconds, ", "));
  else if (std::holds_alternative<ByBytes>(options.ranges))
    text += "by bytes";
  else
    text += "equally";
  for (size_t i = 0; i < options.side.size(); ++i)
    text += fmt::format("\nside {} {}", i, options.side[i] == Side::split ? "split" : "replicate");
  return text;
}

/// The cache key of a pass: what determines its shapes, and which gradients are exchanged.
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
    throw UsageError(
        fmt::format("BlockPipeline: {} micro-batches; there must be at least 1", options_.micro_batches));
  auto all = parameters_;
  all.insert(all.end(), buffers.begin(), buffers.end());
  holds_own_stage_only_ = require_same_or_own("BlockPipeline", stages(), all);
  if (stages().size() == 1) return;
  if (!holds_own_stage_only_ && are_shared({stages()}, parameters_)) shared_ = parameters_;
  if (options_.sync_module_states) share_states(std::move(all));
}

/// Collective. Broadcasts from rank 0 the parameters and buffers that every rank holds, with memory of its
/// own.
void PipelineEngine::share_states(NamedTensors states) {
  std::map<std::string, int> holders;
  std::string names;
  std::erase_if(states, [](auto& item) { return item.placement || is_deferred(item.tensor); });
  for (auto& item : states) names += item.name + '\n';
  for (auto& text : all_gather_text(stages(), names)) {
    std::istringstream lines(text);
    for (std::string name; std::getline(lines, name);) ++holders[name];
  }
  std::erase_if(states, [&](auto& item) { return holders[item.name] < stages().size(); });
  broadcast_values(stages(), states, kBucketBytes);
}

void PipelineEngine::check_own_parameters() const {
  if (!shared_.empty())
    throw UsageError(
        "train_step: several ranks are threads that share this module's parameters, whose gradients would be "
        "added up once a rank; give each rank a module of its own");
}

void PipelineEngine::begin_pass(const Arguments& given) {
  begin_pass();
  auto arguments = given.tensors;
  for (auto& item : arguments) item.name = "argument " + item.name;
  require_same_values(
      "BlockPipeline", "arguments", {stages()}, arguments,
      "every stage is to be given the same global batch: let all ranks load and shuffle alike, or "
      "broadcast the batch",
      given.signature);
}

void PipelineEngine::begin_pass() {
  next_stack_ = 0;
  written_.clear();
  if (!passage_) trace_.clear();
}

void PipelineEngine::end_pass(const NamedTensors& results) {
  if (next_stack_ == 0) refuse_without_blocks("BlockPipeline");
  require_same_values("BlockPipeline", "results", {stages()}, results,
                      "what comes after the blocks must give the same on every rank: the same weights, and "
                      "no dropout there in training");
  if (!at::GradMode::is_enabled()) return;
  auto tensors = tensors_in(results);
  check_outside(tensors, {}, Shared::refused);
  for (auto& [given, result] : std::exchange(written_, {}))
    if (depends_on(tensors, given, {result}))
      throw UsageError(
          "BlockPipeline: the first block writes to what it is given, which is used behind the blocks, too, "
          "where its gradient would not be right; let that block make a new tensor, or clone what it is "
          "given");
}

void PipelineEngine::check_outside(const Tensors& results, const Tensors& arguments, Shared shared) const {
  wanpar::check_outside(leaves_of(results, arguments), parameters_, stacks_, shared);
}

void PipelineEngine::check_inside(const at::Tensor& y, Tensors given, const Tensors& side,
                                  Shared shared) const {
  if (!at::GradMode::is_enabled()) return;
  given.insert(given.end(), side.begin(), side.end());
  wanpar::check_inside(leaves_of({y}, given), parameters_, stacks_, stages().rank(), shared);
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
    throw UsageError(
        fmt::format("BlockPipeline: a stack of {} blocks had {} in an earlier pass; wrap the module anew "
                    "when its blocks change",
                    blocks.size, stack.size()));
  return stack;
}

at::Tensor PipelineEngine::run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                                      const NextBlocks& next) {
  if (is_inside_) return next(blocks, std::move(x), std::move(side));  // a loop inside a block
  if (as_split(x)) return run_on_shards(blocks, x, std::move(side), next);
  auto& stack = stack_for(blocks);
  if (!passage_) return run_pipelined(stack, blocks, std::move(x), std::move(side), next);

  if (innermost<GradientReduction>())
    throw UsageError(
        "BlockPipeline: train_step around a DataParallel, most of whose stages never see its result; wrap "
        "the module without it, and name its group in TrainOptions::replicas");
  if (passage_->left.defined())
    throw UsageError(
        "BlockPipeline: train_step trains a module with one block stack, this one has several; use "
        "backward()");
  passage_->left = run_in_passage(stack, blocks, std::move(x), std::move(side), next);
  return is_last() ? passage_->left : at::Tensor();  // the part after the blocks runs on the last stage
}

at::Tensor PipelineEngine::run_in_passage(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                                          std::vector<at::Tensor> side, const NextBlocks& next) {
  auto before = side;
  if (is_first()) before.push_back(x);
  check_outside(before, {}, Shared::summed);
  if (!is_first()) x = substitute(x, passage_->received);
  auto written = times_written(x);
  auto y = run_mine(stack, blocks, x, side, next, passage_->is_split);
  if (is_first() && times_written(x) != written)
    throw UsageError(
        "BlockPipeline: the first block writes to what it is given, which what comes after the blocks would "
        "not see, on another stage; let that block make a new tensor, or clone what it is given");
  check_inside(y, {x}, side, Shared::summed);
  return y;
}

/// Runs the pipeline on the local shard of a split tensor, and restores the split tensor on each stage.
at::Tensor PipelineEngine::run_on_shards(const BlockStack& blocks, const at::Tensor& x,
                                         std::vector<at::Tensor> side, const NextBlocks& next) {
  auto* found = placement_of(x);
  if (!found) return run_blocks(blocks, unsplit(x), std::move(side), next);
  const auto place = *found;
  const auto group = as_split(x)->group();
  auto y =
      run_blocks(blocks, part_in_graph(x), std::move(side),
                 [&](const BlockStack& inner, at::Tensor part, std::vector<at::Tensor> beside) {
                   auto y = next(inner, of_parts(part, place, group), std::move(beside));
                   auto* after = placement_of(y);
                   if (!after || after->dim != place.dim || !after->is_like(place))
                     throw UsageError(fmt::format(
                         "BlockPipeline: a block was given {} of which dimension {} is split, and gave {}, "
                         "which is split otherwise; keep blocks inside split_sequence and gather_sequence, "
                         "or outside",
                         part.sizes(), place.dim, y.sizes()));
                   return part_in_graph(y);
                 });
  return y.defined() ? of_parts(y, place, group) : y;
}

/// Runs the blocks of this stage; `is_split`: on one of several micro-batches.
at::Tensor PipelineEngine::run_mine(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                                    std::vector<at::Tensor> side, const NextBlocks& next, bool is_split) {
  Flag inside(is_inside_);
  auto times_beside_written = [&] {
    int64_t sum = 0;
    for (auto& tensor : side) sum += times_written(tensor);
    return sum;
  };
  auto versions = stack.versions();
  auto beside = times_beside_written();
  auto y = next(stack.part(blocks), std::move(x), side);
  if (is_split && versions != stack.versions())
    throw UsageError(
        "BlockPipeline: a block writes to its own buffers, as a batch norm in training does: on "
        "micro-batches that gives another result than on the batch; call eval(), or set micro_batches to 1");
  if (beside != times_beside_written())
    throw UsageError(
        "BlockPipeline: a block writes to a tensor that is given to all blocks, which other stages would not "
        "see; let it make a new tensor, and give that on as a part of its result");
  return y;
}

at::Tensor PipelineEngine::run_pipelined(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                                         std::vector<at::Tensor> side, const NextBlocks& next) {
  for (auto* handler : handlers())
    if (auto* reduction = dynamic_cast<GradientReduction*>(handler)) reduction->defer();
  NamedTensors given{{"x", x}};
  for (size_t i = 0; i < side.size(); ++i) given.push_back({fmt::format("side {}", i), side[i]});
  require_same_values("BlockPipeline", "activations", {stages()}, given,
                      "what comes before the blocks must give the same on every rank: the same weights, and "
                      "no dropout there in training");
  if (x.dim() == 0 && options_.micro_batches > 1)
    throw UsageError("BlockPipeline: a tensor without dimensions cannot be cut into micro-batches");
  auto samples = x.dim() > 0 ? x.size(0) : 1;
  auto sizes = micro_batch_sizes(samples, options_.micro_batches);
  auto side_kinds = sides_of(side, options_.side, samples, sizes.size());
  auto count = static_cast<int64_t>(sizes.size());
  auto& known = learnt_[signature(next_stack_, x, side, sizes.size(), parameters_)];
  bool is_first_pass = known.empty();
  stack.begin_pass();

  std::shared_ptr<PipelineTape> tape;
  if (at::GradMode::is_enabled())
    tape = std::make_shared<PipelineTape>(shared_from_this(), sizes, x, side, side_kinds);
  auto side_of = [&](int64_t m) {
    std::vector<at::Tensor> mine = tape ? tape->side(m) : side;
    for (size_t i = 0; i < side.size(); ++i) {
      if (!side[i].defined()) continue;
      NoInterceptGuard no_intercept;
      if (!tape && side_kinds[i] == Side::split) mine[i] = samples_of(side[i], sizes, m);
      mine[i] = substitute(side[i], mine[i]);
    }
    return mine;
  };
  auto entry_of = [&](int64_t m, const at::Tensor& received) {
    NoInterceptGuard no_intercept;
    auto entered = tape ? tape->enter(m, received) : received.defined() ? received : samples_of(x, sizes, m);
    return substitute(x, std::move(entered));
  };

  std::vector<at::Tensor> results;  // of the last stage
  const auto times_x_written = times_written(x);
  auto has_written = [&] { return is_first() && times_written(x) != times_x_written; };
  StageWork work;
  work.has_written = has_written;
  work.forward = [&](int64_t m, at::Tensor received) {
    auto beside = side_of(m);
    auto y = run_mine(stack, blocks, entry_of(m, received), beside, next, count > 1);
    if (tape) check_inside(y, tape->given(m), beside, Shared::refused);
    if (!is_first_pass && has_written() != known[stages().rank()].writes)
      throw UsageError(
          "BlockPipeline: the first block writes to what it is given in some passes only; let it make a new "
          "tensor");
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
    NoInterceptGuard no_intercept;
    if (is_last())
      result = count == 1 ? std::move(results[0]) : at::cat(results);
    else
      result = at::empty(shape, x.options().dtype(last.dtype).requires_grad(false));
    results.clear();
    result = stages().broadcast(std::move(result), stages().size() - 1).get();
  }
  if (tape && last.requires_grad) result = PipelineTape::attach(tape, std::move(result), known);
  if (known[0].writes) {  // reproduce the in-place write on every rank
    NoInterceptGuard no_intercept;
    at::NoGradGuard no_grad;
    auto now = stages().broadcast(x.detach(), 0).get();
    if (!is_first()) x.detach().copy_(now);
    written_.push_back({x, result});
  }
  return substitute(x, std::move(result));
}

void PipelineEngine::rebalance(const Communicator& replicas) {
  if (stacks_.empty()) throw UsageError("BlockPipeline: rebalance() needs a pass before it");
  check_memory("rebalance", [](auto& item) { return !is_claimed(item.tensor); });
  if (is_trained_) synchronize();
  for (auto& stack : stacks_) stack.rebalance(replicas);
  learnt_.clear();
}

/// Collective. Throws Error if parameters cannot be moved between stages: deferred ones that only their own
/// stage has loaded, and sharded ones.
void PipelineEngine::check_memory(std::string_view what,
                                  const std::function<bool(const NamedTensor&)>& counts) {
  auto is_missing = [&](auto& item) { return is_deferred(item.tensor) && counts(item); };
  if (holds_own_stage_only_ ||
      on_any_rank(stages(), std::any_of(parameters_.begin(), parameters_.end(), is_missing)))
    throw UsageError(fmt::format(
        "BlockPipeline: {}() needs every parameter to have memory on every rank, and some are sharded, or "
        "constructed deferred and loaded for their own stage only; load them on every rank first",
        what));
}

void PipelineEngine::synchronize() {
  if (stacks_.empty() && stages().size() > 1)
    throw UsageError("BlockPipeline: synchronize() needs a pass before it");
  check_memory("synchronize", [](auto&) { return true; });
  for (auto& stack : stacks_) stack.synchronize();
}

}  // namespace wanpar
