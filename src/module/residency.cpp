#include "module/residency.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

#include "module/recompute.hpp"
#include "module/storage_memory.hpp"
#include "module/times_written.hpp"

namespace wanpar {
namespace {

c10::StorageImpl* storage_of(const at::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl() : nullptr;
}

void include(std::vector<int>& units, int unit) {
  if (std::find(units.begin(), units.end(), unit) == units.end()) units.push_back(unit);
}

/// Pre-hook of an autograd node: unshards the units that the node's operator has used.
class Refill : public torch::autograd::FunctionPreHook {
 public:
  Refill(std::shared_ptr<Residency> residency, std::vector<int> units)
      : residency_(std::move(residency)), units_(std::move(units)), versions_(residency_->versions(units_)) {}

  torch::autograd::variable_list operator()(const torch::autograd::variable_list& gradients) override {
    residency_->need_in_backward(units_, versions_);
    return gradients;
  }
  bool belongs_to(const Residency& residency) const { return residency_.get() == &residency; }

 private:
  std::shared_ptr<Residency> residency_;
  std::vector<int> units_;
  std::vector<int64_t> versions_;
};

}  // namespace

void Residency::add(ResidentUnit unit) {
  Entry entry{.unit = std::move(unit)};
  for (auto& slice : entry.unit.storages) {
    unit_of_storage_.emplace(storage_of(slice.tensor), static_cast<int>(entries_.size()));
    entry.bytes += slice.bytes;
    take_memory_back(slice.tensor, slice.name);
  }
  entries_.push_back(std::move(entry));
  shards_.push_back(Shards::away);
}

int Residency::unit_of(const at::Tensor& tensor) const {
  auto* storage = storage_of(tensor);
  if (!storage) return -1;
  auto found = unit_of_storage_.find(storage);
  return found == unit_of_storage_.end() ? -1 : found->second;
}

void Residency::reset_after_failure() {
  reshard_all();
  schedule_->forget_orders();
  units_without_node_.clear();
}

void Residency::begin_forward() {
  if (BackwardPass::is_running()) return;  // a recomputation
  schedule_->begin_forward();
  units_without_node_.clear();
  reshard_all();  // anything may have written to the source by now
}

at::Tensor Residency::clone_if_aliased(at::Tensor result) {
  check_unwritten();
  hook_units_without_node({&result, 1});
  return unit_of(result) < 0 ? result : result.clone();
}

void Residency::end_forward() {
  if (BackwardPass::is_running()) return;
  schedule_->end_pass();
  // Backward needs first what was used last; without gradients, reshard all.
  if (!at::GradMode::is_enabled() && schedule_->reshards_after_pass()) reshard_all();
}

std::vector<int> Residency::units_of(std::span<const at::Tensor> tensors) const {
  std::vector<int> units;
  for (auto& tensor : tensors)
    if (int unit = unit_of(tensor); unit >= 0) include(units, unit);
  return units;
}

Tensors Residency::around(const Operator& op, const Next& next) {
  if (!units_without_node_.empty()) hook_units_without_node(op.inputs);
  const auto touched = units_of(op.inputs);
  if (touched.empty()) return next(op);
  if (BackwardPass::is_running()) {
    begin_backward();
    need(touched, true);
  } else {
    need(touched, false);
  }
  auto outputs = next(op);
  hook_nodes(outputs, touched);
  return outputs;
}

void Residency::hook_nodes(std::span<const at::Tensor> outputs, const std::vector<int>& touched) {
  bool has_node = false;
  for (auto& output : outputs) {
    // The backward of a view reads no values.
    if (unit_of(output) >= 0) return;
    has_node |= hook(output, touched);
  }
  if (!has_node && !innermost<UnrecordedRun>())
    for (int unit : touched) include(units_without_node_, unit);
}

RecomputeScope Residency::recompute_scope(std::span<const at::Tensor>) {
  struct ActiveResidency {
    explicit ActiveResidency(std::shared_ptr<Residency> r) : residency(std::move(r)), scope(*residency) {}
    std::shared_ptr<Residency> residency;
    Scope scope;
  };
  return [self = shared_from_this()](std::span<const at::Tensor>) {
    return std::make_shared<ActiveResidency>(self);
  };
}

bool Residency::hook(const at::Tensor& tensor, const std::vector<int>& units) {
  if (!tensor.defined() || !tensor.grad_fn()) return false;
  auto& hooks = tensor.grad_fn()->pre_hooks();
  auto* last = hooks.empty() ? nullptr : dynamic_cast<Refill*>(hooks.back().get());
  if (!last || !last->belongs_to(*this))
    tensor.grad_fn()->add_pre_hook(std::make_unique<Refill>(shared_from_this(), units));
  return true;
}

void Residency::hook_units_without_node(std::span<const at::Tensor> tensors) {
  if (units_without_node_.empty()) return;
  for (auto& tensor : tensors) {
    if (!tensor.defined() || !tensor.grad_fn() || tensor.grad_fn()->is_traceable()) continue;
    tensor.grad_fn()->add_pre_hook(std::make_unique<Refill>(shared_from_this(), units_without_node_));
    units_without_node_.clear();
    return;
  }
}

std::vector<int64_t> Residency::versions(const std::vector<int>& units) const {
  std::vector<int64_t> versions;
  for (int unit : units) versions.push_back(entries_[unit].unit.source->version());
  return versions;
}

void Residency::need_in_backward(const std::vector<int>& units, const std::vector<int64_t>& then) {
  const auto now = versions(units);
  for (size_t i = 0; i < units.size(); ++i)
    if (now[i] != then[i])
      throw UsageError(fmt::format(
          "sharded parameters: unit '{}' has been written to between a forward and its backward, which would "
          "compute with other values; call backward() before step(), or repeat the forward",
          entries_[units[i]].unit.name));
  if (at::GradMode::is_enabled())
    throw UsageError(
        "sharded parameters: a backward with create_graph would save parameters that are resharded; "
        "differentiate once only");
  NoInterceptGuard no_intercept;
  begin_backward();
  need(units, true);
}

void Residency::begin_backward() {
  bool is_first = pass_.begin_once([self = weak_from_this()] {
    auto residency = self.lock();
    if (residency && residency->schedule_->reshards_after_pass()) residency->reshard_all();
  });
  if (is_first) schedule_->begin_backward();
}

void Residency::need(const std::vector<int>& needed, bool in_backward) {
  const auto moves = schedule_->need(needed, shards_, in_backward);
  if (!moves.reshard.empty()) check_unwritten();
  for (int unit : moves.reshard) reshard(unit);
  for (int unit : moves.gather) fetch(unit);
  for (int unit : moves.wait) finish_fetch(unit);
}

void Residency::fetch(int unit) {
  if (shards_[unit] != Shards::away) return;
  auto& entry = entries_[unit];
  at::NoGradGuard no_grad;
  c10::InferenceMode ordinary(false);
  entry.pending = entry.unit.source->fetch();
  shards_[unit] = Shards::coming;
  resident_bytes_ += entry.bytes;
  peak_bytes_ = std::max(peak_bytes_, resident_bytes_);
}

void Residency::finish_fetch(int unit) {
  if (shards_[unit] == Shards::resident) return;
  auto& entry = entries_[unit];
  RECORD_USER_SCOPE("ShardedParams: wait for a unit");
  c10::InferenceMode ordinary(false);
  entry.buffers = std::exchange(entry.pending, nullptr)();
  entry.written.clear();
  for (auto& slice : entry.unit.storages) {
    lend_memory(slice.tensor, entry.buffers[slice.buffer], slice.begin, slice.bytes);
    entry.written.push_back(times_written(slice.tensor));
  }
  shards_[unit] = Shards::resident;
}

void Residency::reshard(int unit) {
  const auto was = std::exchange(shards_[unit], Shards::away);
  if (was == Shards::away) return;
  auto& entry = entries_[unit];
  resident_bytes_ -= entry.bytes;
  entry.pending = nullptr;
  if (was != Shards::resident) return;
  entry.buffers.clear();
  for (auto& slice : entry.unit.storages) take_memory_back(slice.tensor, slice.name);
}

void Residency::check_unwritten() const {
  for (size_t unit = 0; unit < entries_.size(); ++unit) {
    if (shards_[unit] != Shards::resident) continue;
    auto& entry = entries_[unit];
    for (size_t i = 0; i < entry.written.size(); ++i)
      if (times_written(entry.unit.storages[i].tensor) != entry.written[i])
        throw UsageError(
            fmt::format("sharded parameters: the module wrote to a parameter of unit '{}', which is lost "
                        "when the unit is resharded; change parameters through the optimizer or load()",
                        entry.unit.name));
  }
}

void Residency::unshard_all() {
  for (size_t i = 0; i < entries_.size(); ++i) fetch(static_cast<int>(i));
  for (size_t i = 0; i < entries_.size(); ++i) finish_fetch(static_cast<int>(i));
}

void Residency::write_back_all() {
  at::NoGradGuard no_grad;
  for (size_t unit = 0; unit < entries_.size(); ++unit)
    if (shards_[unit] == Shards::resident) entries_[unit].unit.source->write_back(entries_[unit].buffers);
}

void Residency::reshard_all() {
  for (size_t i = 0; i < entries_.size(); ++i) reshard(static_cast<int>(i));
}

}  // namespace wanpar
