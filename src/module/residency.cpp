#include "module/residency.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
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

bool contains(const std::vector<int>& units, int unit) {
  return std::find(units.begin(), units.end(), unit) != units.end();
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
}

int Residency::unit_of(const at::Tensor& tensor) const {
  auto* storage = storage_of(tensor);
  if (!storage) return -1;
  auto found = unit_of_storage_.find(storage);
  return found == unit_of_storage_.end() ? -1 : found->second;
}

void Residency::reset_after_failure() {
  reshard_all();
  forward_ = {}, backward_ = {};
  step_.clear();
  units_without_node_.clear();
}

void Residency::begin_forward() {
  if (BackwardPass::is_running()) return;  // a recomputation
  forward_.begin_pass();
  step_.clear();
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
  step_.clear();
  // Backward needs first what was used last; without gradients, reshard all.
  if (!at::GradMode::is_enabled() && reshard_ != Reshard::at_next_forward) reshard_all();
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
    need(touched, backward_);
  } else {
    need(touched, forward_);
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
      throw Error(fmt::format(
          "sharded parameters: unit '{}' has been written to between a forward and its backward, which would "
          "compute with other values; call backward() before step(), or repeat the forward",
          entries_[units[i]].unit.name));
  if (at::GradMode::is_enabled())
    throw Error(
        "sharded parameters: a backward with create_graph would save parameters that are resharded; "
        "differentiate once only");
  NoInterceptGuard no_intercept;
  begin_backward();
  need(units, backward_);
}

void Residency::begin_backward() {
  bool is_first = pass_.begin_once([self = weak_from_this()] {
    auto residency = self.lock();
    if (residency && residency->reshard_ != Reshard::at_next_forward) residency->reshard_all();
  });
  if (!is_first) return;
  auto seen = forward_.seen();
  backward_.begin_pass({seen.rbegin(), seen.rend()});
  step_.clear();
}

void Residency::need(const std::vector<int>& step, VisitOrder& order) {
  auto is_here = [&](int unit) { return entries_[unit].is_resident; };
  auto is_known = [&](int unit) { return contains(step_, unit); };
  if (std::all_of(step.begin(), step.end(), is_here) && std::all_of(step.begin(), step.end(), is_known))
    return;

  for (int unit : step) order.visit(unit);
  step_ = step;
  const auto most = std::max<size_t>(step.size(), prefetch_ + 1);
  auto wanted = step;
  for (int unit : order.upcoming()) {
    if (wanted.size() >= most) break;
    include(wanted, unit);
  }
  if (reshard_ == Reshard::after_use) {
    check_unwritten();
    auto kept = wanted;
    auto seen = order.seen();
    for (auto unit = seen.rbegin(); unit != seen.rend() && kept.size() < most; ++unit) include(kept, *unit);
    for (size_t i = 0; i < entries_.size(); ++i)
      if (!contains(kept, static_cast<int>(i))) reshard(static_cast<int>(i));
  }
  for (int unit : wanted) fetch(unit);
  for (int unit : step) finish_fetch(unit);
}

void Residency::fetch(int unit) {
  auto& entry = entries_[unit];
  if (entry.is_resident || entry.pending) return;
  at::NoGradGuard no_grad;
  c10::InferenceMode ordinary(false);
  entry.pending = entry.unit.source->fetch();
  resident_bytes_ += entry.bytes;
  peak_bytes_ = std::max(peak_bytes_, resident_bytes_);
}

void Residency::finish_fetch(int unit) {
  auto& entry = entries_[unit];
  if (entry.is_resident) return;
  c10::InferenceMode ordinary(false);
  entry.buffers = std::exchange(entry.pending, nullptr)();
  entry.written.clear();
  for (auto& slice : entry.unit.storages) {
    lend_memory(slice.tensor, entry.buffers[slice.buffer], slice.begin, slice.bytes);
    entry.written.push_back(times_written(slice.tensor));
  }
  entry.is_resident = true;
}

void Residency::reshard(int unit) {
  auto& entry = entries_[unit];
  if (!entry.is_resident && !entry.pending) return;
  resident_bytes_ -= entry.bytes;
  entry.pending = nullptr;
  if (!std::exchange(entry.is_resident, false)) return;
  entry.buffers.clear();
  for (auto& slice : entry.unit.storages) take_memory_back(slice.tensor, slice.name);
}

void Residency::check_unwritten() const {
  for (auto& entry : entries_) {
    if (!entry.is_resident) continue;
    for (size_t i = 0; i < entry.written.size(); ++i)
      if (times_written(entry.unit.storages[i].tensor) != entry.written[i])
        throw Error(
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
  for (auto& entry : entries_)
    if (entry.is_resident) entry.unit.source->write_back(entry.buffers);
}

void Residency::reshard_all() {
  for (size_t i = 0; i < entries_.size(); ++i) reshard(static_cast<int>(i));
}

}  // namespace wanpar
