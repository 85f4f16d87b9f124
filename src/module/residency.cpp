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

/// Brings units back before the node runs whose operator had touched them.
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
  for (auto& place : entry.unit.places) {
    unit_of_storage_.emplace(storage_of(place.tensor), static_cast<int>(entries_.size()));
    entry.bytes += place.bytes;
    take_memory_back(place.tensor, place.name);
  }
  entries_.push_back(std::move(entry));
}

int Residency::unit_of(const at::Tensor& tensor) const {
  auto* storage = storage_of(tensor);
  if (!storage) return -1;
  auto found = unit_of_storage_.find(storage);
  return found == unit_of_storage_.end() ? -1 : found->second;
}

void Residency::begin_anew() {
  release_all();
  forward_ = {}, backward_ = {};
  step_.clear();
  orphans_.clear();
}

void Residency::begin_forward() {
  if (BackwardPass::is_running()) return;  // a part of the forward that a backward computes again
  forward_.begin();
  step_.clear();
  orphans_.clear();
  release_all();  // anything may have written to the source by now
}

at::Tensor Residency::leave(at::Tensor result) {
  check_unwritten();
  adopt({&result, 1});
  return unit_of(result) < 0 ? result : result.clone();
}

void Residency::end_forward() {
  if (BackwardPass::is_running()) return;
  step_.clear();
  // What was used last is what a backward needs first; without one, nothing stays.
  if (!at::GradMode::is_enabled() && release_ != Release::at_next_forward) release_all();
}

std::vector<int> Residency::units_of(std::span<const at::Tensor> tensors) const {
  std::vector<int> units;
  for (auto& tensor : tensors)
    if (int unit = unit_of(tensor); unit >= 0) include(units, unit);
  return units;
}

Tensors Residency::around(const Operator& op, const Next& next) {
  if (!orphans_.empty()) adopt(op.inputs);
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
    // The backward of a view reads nothing.
    if (unit_of(output) >= 0) return;
    has_node |= hook(output, touched);
  }
  if (!has_node && !innermost<UnrecordedRun>())
    for (int unit : touched) include(orphans_, unit);
}

Reentry Residency::reentry(std::span<const at::Tensor>) {
  struct Again {
    explicit Again(std::shared_ptr<Residency> r) : residency(std::move(r)), scope(*residency) {}
    std::shared_ptr<Residency> residency;
    Scope scope;
  };
  return [self = shared_from_this()](std::span<const at::Tensor>) { return std::make_shared<Again>(self); };
}

bool Residency::hook(const at::Tensor& tensor, const std::vector<int>& units) {
  if (!tensor.defined() || !tensor.grad_fn()) return false;
  auto& hooks = tensor.grad_fn()->pre_hooks();
  auto* last = hooks.empty() ? nullptr : dynamic_cast<Refill*>(hooks.back().get());
  if (!last || !last->belongs_to(*this))
    tensor.grad_fn()->add_pre_hook(std::make_unique<Refill>(shared_from_this(), units));
  return true;
}

void Residency::adopt(std::span<const at::Tensor> tensors) {
  if (orphans_.empty()) return;
  for (auto& tensor : tensors) {
    if (!tensor.defined() || !tensor.grad_fn() || tensor.grad_fn()->is_traceable()) continue;
    tensor.grad_fn()->add_pre_hook(std::make_unique<Refill>(shared_from_this(), orphans_));
    orphans_.clear();
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
        "sharded parameters: a backward with create_graph would save parameters that are let go of; "
        "differentiate once only");
  Plain plain;
  begin_backward();
  need(units, backward_);
}

void Residency::begin_backward() {
  bool is_first = pass_.begin([self = weak_from_this()] {
    auto residency = self.lock();
    if (residency && residency->release_ != Release::at_next_forward) residency->release_all();
  });
  if (!is_first) return;
  auto seen = forward_.seen();
  backward_.begin({seen.rbegin(), seen.rend()});
  step_.clear();
}

void Residency::need(const std::vector<int>& step, VisitOrder& order) {
  auto is_here = [&](int unit) { return entries_[unit].here; };
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
  if (release_ == Release::after_use) {
    check_unwritten();
    auto kept = wanted;
    auto seen = order.seen();
    for (auto unit = seen.rbegin(); unit != seen.rend() && kept.size() < most; ++unit) include(kept, *unit);
    for (size_t i = 0; i < entries_.size(); ++i)
      if (!contains(kept, static_cast<int>(i))) let_go(static_cast<int>(i));
  }
  for (int unit : wanted) fetch(unit);
  for (int unit : step) arrive(unit);
}

void Residency::fetch(int unit) {
  auto& entry = entries_[unit];
  if (entry.here || entry.coming) return;
  at::NoGradGuard no_grad;
  c10::InferenceMode ordinary(false);
  entry.coming = entry.unit.source->fetch();
  resident_bytes_ += entry.bytes;
  peak_bytes_ = std::max(peak_bytes_, resident_bytes_);
}

void Residency::arrive(int unit) {
  auto& entry = entries_[unit];
  if (entry.here) return;
  c10::InferenceMode ordinary(false);
  entry.buffers = std::exchange(entry.coming, nullptr)();
  entry.written.clear();
  for (auto& place : entry.unit.places) {
    lend_memory(place.tensor, entry.buffers[place.buffer], place.begin, place.bytes);
    entry.written.push_back(times_written(place.tensor));
  }
  entry.here = true;
}

void Residency::let_go(int unit) {
  auto& entry = entries_[unit];
  if (!entry.here && !entry.coming) return;
  resident_bytes_ -= entry.bytes;
  entry.coming = nullptr;
  if (!std::exchange(entry.here, false)) return;
  entry.buffers.clear();
  for (auto& place : entry.unit.places) take_memory_back(place.tensor, place.name);
}

void Residency::check_unwritten() const {
  for (auto& entry : entries_) {
    if (!entry.here) continue;
    for (size_t i = 0; i < entry.written.size(); ++i)
      if (times_written(entry.unit.places[i].tensor) != entry.written[i])
        throw Error(
            fmt::format("sharded parameters: the module wrote to a parameter of unit '{}', which is lost "
                        "when the unit is let go of; change parameters through the optimizer or load()",
                        entry.unit.name));
  }
}

void Residency::bring_all() {
  for (size_t i = 0; i < entries_.size(); ++i) fetch(static_cast<int>(i));
  for (size_t i = 0; i < entries_.size(); ++i) arrive(static_cast<int>(i));
}

void Residency::keep_all() {
  at::NoGradGuard no_grad;
  for (auto& entry : entries_)
    if (entry.here) entry.unit.source->keep(entry.buffers);
}

void Residency::release_all() {
  for (size_t i = 0; i < entries_.size(); ++i) let_go(static_cast<int>(i));
}

}  // namespace wanpar
