#include "strategy/sharded_params/sharded_engine.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <map>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

#include "module/deferred.hpp"
#include "module/leaves.hpp"
#include "module/same_module.hpp"
#include "module/same_values.hpp"
#include "module/times_written.hpp"
#include "strategy/sharded_params/units.hpp"

namespace wanpar {
namespace {

/// The options that must be equal on every rank, as text.
std::string text_of(const ShardedParamsOptions& options) {
  auto dtype = [](std::optional<at::ScalarType> type) {
    return type ? c10::toString(*type) : "the tensors' own";
  };
  return fmt::format(
      "sharding {}\nprefetch {}\nunits {}\nmin_unit_bytes {}\nparam_dtype {}\nreduce_dtype {}\nbuffer_dtype "
      "{}\n"
      "sync_module_states {}",
      fmt::underlying(options.sharding), options.prefetch, options.units, options.min_unit_bytes,
      dtype(options.param_dtype), dtype(options.reduce_dtype), dtype(options.buffer_dtype),
      options.sync_module_states);
}

int size_of(const std::vector<Communicator>& grid) {
  int size = 1;
  for (auto& group : grid) size *= group.size();
  return size;
}

}  // namespace

ShardedEngine::ShardedEngine(ShardedParamsOptions options, const NamedTensors& parameters,
                             const NamedTensors& buffers)
    : ownership_(parameters), options_(std::move(options)) {
  placement_ = std::make_shared<Placement>();
  placement_->reduced_over = {options_.group, options_.replicate};
  if (options_.sharding != Sharding::no_shard) placement_->sharded_over = {options_.group};
  check(parameters, buffers);
  find_deferred(parameters);
  if (options_.sharding == Sharding::no_shard)
    alike_ = {std::exchange(options_.group, {}), options_.replicate};
  else
    alike_ = {options_.replicate};
  auto reshard = options_.group.size() == 1                     ? Reshard::at_next_forward
                 : options_.sharding == Sharding::shard_grad_op ? Reshard::after_backward
                                                                : Reshard::after_use;
  schedule_ = std::make_shared<ShardSchedule>(options_.prefetch, reshard);
  residency_ = std::make_shared<Residency>(schedule_);

  at::NoGradGuard no_grad;
  c10::InferenceMode ordinary(false);
  make_units(parameters);
  if (is_unsharded_) whole_ = parameters;
  make_gradients();
  for (auto& [name, buffer] : buffers) settle(buffer);
}

void ShardedEngine::check_values() const {
  if (!without_values_.empty())
    throw UsageError(fmt::format(
        "ShardedParams: parameter '{}' was constructed deferred and has no values yet; call load()",
        without_values_));
}

bool ShardedEngine::is_alone() const { return is_unsharded_ && size_of(placement_->reduced_over) == 1; }

/// Also picks up parameters that the user has frozen or unfrozen since the last call.
void ShardedEngine::begin_forward() {
  reset_after_failures();
  if (!std::exchange(are_compared_, true)) compare_values();
  each_flat([](auto& flat) { flat.agree_on_training(); });
  if (is_unsharded_) written_ = times_written(whole_);
  gradients_->listen();
  residency_->begin_forward();
}

/// Collective. Verifies that ranks that hold the same shards start with equal values.
void ShardedEngine::compare_values() const {
  if (size_of(alike_) == 1) return;
  NamedTensors shards;
  each_flat([&](auto& flat) {
    for (auto& shard : flat.shards()) shards.push_back({shard.names[0], shard.tensor});
  });
  all_or_none(options_.group, [&] {
    for (auto& group : alike_)
      if (group.size() > 1)
        require_same_values("ShardedParams", "parameters", {group}, shards,
                            "ranks that hold the same parameters must begin alike: set .sync_module_states, "
                            "seed them alike, or let all load the same");
  });
}

void ShardedEngine::check_parameters() const {
  if (is_unsharded_) refuse_written("ShardedParams", whole_, written_);
}

/// Throws Error if results depend on a leaf that is not a parameter here: its gradient would not be reduced.
void ShardedEngine::check_leaves(const std::vector<at::Tensor>& results,
                                 const std::vector<at::Tensor>& arguments) const {
  for (auto& leaf : leaves_of(results, arguments))
    if (leaf.numel() > 0 && !leaves_.contains(leaf.unsafeGetTensorImpl()))
      throw UsageError(fmt::format(
          "ShardedParams: the result depends on a tensor {}{} that needs a gradient and was no parameter of "
          "the module when it was wrapped, so each rank would keep its own; register it before the module is "
          "wrapped, or detach it",
          c10::toString(leaf.scalar_type()), leaf.sizes()));
}

/// Call in a backward.
void ShardedEngine::check_backward() const {
  auto* tasks = torch::autograd::get_current_graph_task_exec_info();
  if (!tasks || tasks->empty()) return;
  for (auto& [node, task] : *tasks) {
    auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node);
    bool is_asked = task.needed_ || task.captures_;
    if (leaf && is_asked && leaves_.contains(leaf->variable.unsafeGetTensorImpl()))
      throw UsageError(
          "ShardedParams: autograd::grad() of a parameter, or backward() with a list of inputs, gives each "
          "rank a gradient of its own; call backward() alone, and read the gradients of parameters()");
  }
}

void ShardedEngine::reset_after_failures() {
  auto now = options_.group.disturbances();
  if (std::exchange(disturbances_, now) == now) return;
  residency_->reset_after_failure();
  gradients_->reset_after_failure();
}

void ShardedEngine::check(const NamedTensors& parameters, const NamedTensors& buffers) const {
  NamedTensors all = parameters;
  all.insert(all.end(), buffers.begin(), buffers.end());
  const std::vector<Communicator> grid{options_.group, options_.replicate};
  require_same("ShardedParams", "options", grid, text_of(options_));
  require_same_module("ShardedParams", grid, all);
  if (options_.prefetch < 0)
    throw UsageError(
        fmt::format("ShardedParams: a prefetch of {} units; there must be 0 or more", options_.prefetch));
  if (options_.min_unit_bytes < 0)
    throw Error(
        fmt::format("ShardedParams: .min_unit_bytes is {}; it must be 0 or more", options_.min_unit_bytes));
  if (parameters.empty())
    throw UsageError(
        "ShardedParams: the module has no parameters to shard; a frozen TorchScript module has none left: "
        "wrap it before freezing");
  for (auto& [name, tensor] : parameters)
    if (!tensor.defined() || !tensor.has_storage())
      throw UsageError(
          fmt::format("ShardedParams: parameter '{}' has no memory of its own (sparse, or undefined)", name));
  for (auto& [name, tensor] : buffers)
    if (is_deferred(tensor))
      throw UsageError(
          fmt::format("ShardedParams: buffer '{}' was constructed deferred, but buffers are not loaded; make "
                      "it with at::zeros, at::full or from values",
                      name));
}

void ShardedEngine::find_deferred(const NamedTensors& parameters) {
  for (auto& [name, tensor] : parameters)
    if (is_deferred(tensor)) without_values_ = name;
  if (!options_.sync_module_states) return;
  auto has_none = at::full({1}, !without_values_.empty(), at::TensorOptions(at::kBool));
  for (auto& group : {options_.group, options_.replicate})
    has_none = group.broadcast(has_none.to(group.device())).get().cpu();
  if (has_none.item<bool>())
    throw UsageError(
        "ShardedParams: rank 0 has no values to give, its module was constructed deferred; construct it with "
        "values there, or leave out .sync_module_states and call load()");
  without_values_.clear();
}

void ShardedEngine::make_units(const NamedTensors& parameters) {
  auto units = join_small_units(
      options_.units.empty() ? units_by_name(parameters) : units_by_prefix(parameters, options_.units),
      parameters, options_.min_unit_bytes);
  std::vector<std::map<std::pair<at::ScalarType, bool>, std::vector<Item>>> groups(units.names.size());
  for (auto& item : items_of(parameters, units)) {
    bool is_trained = std::any_of(item.leaves.begin(), item.leaves.end(),
                                  [](auto& leaf) { return leaf.tensor.requires_grad(); });
    auto dtype = item.leaves[0].tensor.scalar_type();
    for (auto& leaf : item.leaves) leaves_.insert(leaf.tensor.unsafeGetTensorImpl());
    groups[item.unit][{dtype, is_trained}].push_back(std::move(item));
  }
  is_unsharded_ = options_.group.size() == 1;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].empty()) continue;  // all its parameters are tied to those of earlier units
    auto unit = std::make_shared<ShardedUnit>(units.names[i], static_cast<int64_t>(i));
    ResidentUnit resident{.name = unit->name, .source = unit, .storages = {}};
    auto about = fmt::format("unit '{}'", unit->name);
    auto alike = alike_;
    for (auto& group : alike) group = group.about(about);
    for (auto& [kind, items] : groups[i]) {
      auto dtype = kind.first;
      auto compute = c10::isFloatingType(dtype) ? options_.param_dtype.value_or(dtype) : dtype;
      unit->flats.emplace_back(std::move(items), FlatParameters::Options{
                                                     .group = options_.group.about(about),
                                                     .alike = alike,
                                                     .compute = compute,
                                                     .reduce = options_.reduce_dtype,
                                                     .take_from_rank_0 = options_.sync_module_states,
                                                 });
      is_unsharded_ &= unit->flats.back().is_unsharded();
      auto storages = unit->flats.back().storages(unit->flats.size() - 1);
      resident.storages.insert(resident.storages.end(), storages.begin(), storages.end());
    }
    residency_->add(std::move(resident));
    units_.push_back(std::move(unit));
  }
}

/// Buffers are replicated: casts and broadcasts one.
void ShardedEngine::settle(at::Tensor buffer) const {
  if (options_.sync_module_states) {
    auto from_rank_0 = options_.group.broadcast(buffer).get();
    for (auto& alike : alike_) from_rank_0 = alike.broadcast(std::move(from_rank_0)).get();
    buffer.copy_(from_rank_0);
  }
  if (options_.buffer_dtype && buffer.is_floating_point()) buffer.set_data(buffer.to(*options_.buffer_dtype));
}

/// Expects backward to run from the last unit to the first, and to gather those that are no longer resident.
void ShardedEngine::make_gradients() {
  auto count = static_cast<int64_t>(units_.size());
  bool is_gathered = options_.group.size() > 1 && options_.sharding == Sharding::full_shard;
  auto gathers = is_gathered ? std::max<int64_t>(0, count - options_.prefetch - 1) : 0;
  std::vector<ShardedGradients::Expected> order;
  for (int64_t i = 0; i < count; ++i)
    for (auto& flat : units_[count - 1 - i]->flats)
      if (torch::autograd::isDifferentiableType(flat.options().dtype().toScalarType()))
        order.push_back({&flat, std::min(i, gathers)});
  gradients_ = std::make_shared<ShardedGradients>(options_.group, alike_, schedule_, order);
  gradients_->listen();
  for (auto& unit : units_) unit->gradients = gradients_;
}

}  // namespace wanpar
