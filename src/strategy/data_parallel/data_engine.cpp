#include "strategy/data_parallel/data_engine.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <random>
#include <unordered_set>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

#include "module/leaves.hpp"
#include "module/same_module.hpp"
#include "module/same_values.hpp"
#include "module/times_written.hpp"

namespace wanpar {
namespace {

/// Removes duplicates: tied tensors are listed under their first name.
NamedTensors distinct(const NamedTensors& tensors) {
  NamedTensors once;
  std::unordered_set<at::TensorImpl*> seen;
  for (auto& item : tensors)
    if (item.tensor.defined() && seen.insert(item.tensor.unsafeGetTensorImpl()).second) once.push_back(item);
  return once;
}

std::string text_of(const ValueNames& names) {
  std::vector<std::string> texts;
  for (auto& name : names) texts.push_back(name.text());
  return fmt::format("{}", fmt::join(texts, ", "));
}

/// The options that must be equal on every rank, as text.
std::string text_of(const DataParallelOptions& options) {
  std::string gather;
  for (auto& [dim, result] : options.gather) gather += fmt::format("\ngather '{}' {}", result.text(), dim);
  return fmt::format(
      "mode {}\nbatch [{}]{}\nsync_module_states {}\nbroadcast_buffers {}\nbucket_bytes {}\n"
      "find_unused_parameters {}",
      options.mode == BatchMode::global ? "global" : "local", text_of(options.batch), gather,
      options.sync_module_states, options.broadcast_buffers, options.bucket_bytes,
      options.find_unused_parameters);
}

bool is_sharded(const NamedTensor& item) { return item.placement != nullptr; }

}  // namespace

DataEngine::DataEngine(DataParallelOptions options, NamedTensors parameters, NamedTensors buffers)
    : options_(std::move(options)), parameters_(distinct(parameters)), buffers_(distinct(buffers)) {
  if (group().size() == 1) return;
  require_same("DataParallel", "options", {group()}, text_of(options_));
  check_options();
  auto states = parameters_;
  states.insert(states.end(), buffers_.begin(), buffers_.end());
  require_same_module("DataParallel", {group()}, states);
  std::erase_if(states, is_sharded);
  if (options_.sync_module_states) broadcast_values(group(), states, options_.bucket_bytes);
  buffer_versions_ = times_written(buffers_);
}

DataEngine::~DataEngine() {
  if (reducer_) reducer_->release();
}

bool DataEngine::states_all_results() const {
  return std::any_of(options_.gather.begin(), options_.gather.end(),
                     [](auto& gather) { return gather.result.text().empty(); });
}

void DataEngine::check_options() const {
  bool is_named = std::none_of(options_.batch.begin(), options_.batch.end(),
                               [](auto& name) { return name.text().starts_with('-'); });
  if (is_global_batch() && (options_.batch.empty() || !is_named))
    throw UsageError(
        fmt::format("DataParallel: .batch is [{}]; name the arguments that hold the batch, counted from 0",
                    text_of(options_.batch)));
  if (options_.bucket_bytes < 1)
    throw UsageError(fmt::format("DataParallel: .bucket_bytes is {}; the least is 1", options_.bucket_bytes));
}

void DataEngine::pause() {
  ++pauses_;
  if (reducer_) reducer_->pause(true);
}

void DataEngine::resume() {
  --pauses_;
  if (reducer_) reducer_->pause(pauses_ > 0);
}

/// Broadcasts the buffers. One that the module writes without bumping its version counter, as batch norm
/// writes its statistics, is written so here, too: two forwards may precede the backward of the first.
void DataEngine::share_buffers() {
  const auto versions = times_written(buffers_);
  broadcast_values(group(), buffers_, options_.bucket_bytes, [&](size_t i, const at::Tensor& values) {
    bool is_counted = versions[i] != buffer_versions_[i];
    auto& buffer = buffers_[i].tensor;
    (is_counted ? buffer : buffer.variable_data()).copy_(values);
  });
  buffer_versions_ = times_written(buffers_);
}

void DataEngine::check_parameters() const {
  refuse_written("DataParallel", parameters_, parameter_versions_);
}

void DataEngine::prepare() {
  bool shares_buffers = !is_global_batch() && options_.broadcast_buffers && pauses_ == 0 && !buffers_.empty();
  if (shares_buffers) share_buffers();
  parameter_versions_ = times_written(parameters_);
  if (!at::GradMode::is_enabled()) return;

  auto trained = parameters_;
  std::erase_if(trained, [](auto& item) { return !item.tensor.requires_grad(); });
  leave_sharded(trained);
  if (reducer_ ? reducer_->serves(trained) : trained.empty()) {
    if (reducer_) reducer_->begin_forward();
    return;
  }
  if (reducer_) reducer_->release();
  reducer_.reset();
  if (trained.empty()) return;
  reducer_ = std::make_shared<GradientReducer>(
      group(), std::move(trained),
      GradientReducer::Options{options_.bucket_bytes, options_.find_unused_parameters});
  reducer_->pause(pauses_ > 0);
}

/// Leaves the gradients of sharded parameters to the inner ShardedParams, which must reduce them over our
/// ranks, too. Verified by a random number that one rank draws and the reducing ranks agree on.
void DataEngine::leave_sharded(NamedTensors& trained) {
  auto sharded = std::find_if(trained.begin(), trained.end(), is_sharded);
  if (sharded == trained.end()) return;
  if (!averages_are_known_) {
    auto number = at::tensor({static_cast<int64_t>(std::random_device{}())}, at::kLong);
    for (auto& averaging : sharded->placement->reduced_over)
      number = averaging.all_reduce(number.to(averaging.device()), ReduceOp::max).get();
    auto all = group().all_gather(number.to(group().device())).get();
    if (!all.eq(all[0]).all().item<bool>())
      throw UsageError(
          "DataParallel: the parameters are sharded, and their gradients are not averaged over these ranks; "
          "give this group to ShardedParams too, as .group or as .replicate");
    averages_are_known_ = true;
  }
  std::erase_if(trained, is_sharded);
}

void DataEngine::check_leaves(const std::vector<at::Tensor>& results,
                              const std::vector<at::Tensor>& arguments) {
  bool needs_gradient =
      std::any_of(results.begin(), results.end(), [](auto& x) { return x.requires_grad(); });
  if (!needs_gradient) return;
  std::unordered_set<at::TensorImpl*> known;
  for (auto& item : parameters_) known.insert(item.tensor.unsafeGetTensorImpl());
  for (auto& leaf : leaves_of(results, arguments))
    if (leaf.numel() > 0 && !known.contains(leaf.unsafeGetTensorImpl()))
      throw UsageError(fmt::format(
          "DataParallel: the result depends on a tensor {}{} that needs a gradient and is no parameter of "
          "the module, so no rank would share it; wrap the module itself, not a function around it",
          c10::toString(leaf.scalar_type()), leaf.sizes()));
}

bool DataEngine::reduces() const { return reducer_ && at::GradMode::is_enabled(); }

void DataEngine::watch(at::Tensor& result, bool in_parts) {
  if (reducer_) reducer_->watch(result, in_parts);
}

std::vector<std::string> DataEngine::unused() const {
  return reducer_ ? reducer_->unused() : std::vector<std::string>{};
}

}  // namespace wanpar
