#include "strategy/data_parallel/gradient_reducer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include "module/same_module.hpp"

namespace wanpar {
namespace {

constexpr int kNone = -1;

std::string some_of(std::vector<std::string> names) {
  constexpr size_t kMost = 8;
  auto more = names.size() > kMost ? fmt::format(" and {} more", names.size() - kMost) : "";
  names.resize(std::min(names.size(), kMost));
  return fmt::format("{}{}", fmt::join(names, ", "), more);
}

}  // namespace

/// Post-hook of a parameter's AccumulateGrad; called after the user's own hooks.
struct GradientReducer::Hook : torch::autograd::FunctionPostHook {
  Hook(GradientReducer* reducer, size_t index) : reducer(reducer), index(index) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list& gradients) override {
    reducer->arrived(index, gradients[0].defined());
    return outputs;
  }
  GradientReducer* reducer;
  size_t index;
};

GradientReducer::GradientReducer(Communicator group, NamedTensors parameters, Options options)
    : group_(std::move(group)), parameters_(std::move(parameters)), options_(options) {
  require_same_module("DataParallel, parameters that need a gradient", {group_}, parameters_);
  for (auto& [name, tensor] : parameters_) {
    accumulators_.push_back(torch::autograd::impl::grad_accumulator(tensor));
    for (auto& hook : accumulators_.back()->post_hooks())
      if (dynamic_cast<Hook*>(hook.get()))
        throw UsageError(fmt::format(
            "DataParallel: another DataParallel averages the gradient of {} already; give each rank that "
            "trains a module of its own, and wrap it once, over mesh.flatten of all the axes",
            name));
  }
  for (size_t i = 0; i < accumulators_.size(); ++i)
    hooks_.push_back(accumulators_[i]->add_post_hook(std::make_unique<Hook>(this, i)));
  had_one_.assign(parameters_.size(), false);

  // Initial guess: gradients become ready from the last parameter to the first.
  std::vector<size_t> order(parameters_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = order.size() - 1 - i;
  assign_buckets(order);
}

GradientReducer::~GradientReducer() { release(); }

void GradientReducer::release() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < hooks_.size(); ++i) accumulators_[i]->del_post_hook(hooks_[i]);
  hooks_.clear();
  released_ = true;
}

bool GradientReducer::serves(const NamedTensors& parameters) const {
  // A parameter that was moved to another dtype or device has a new AccumulateGrad, without our hook.
  auto is_served = [&](size_t i) {
    return parameters[i].tensor.is_same(parameters_[i].tensor) &&
           torch::autograd::impl::try_get_grad_accumulator(parameters[i].tensor) == accumulators_[i];
  };
  if (parameters.size() != parameters_.size()) return false;
  for (size_t i = 0; i < parameters.size(); ++i)
    if (!is_served(i)) return false;
  return true;
}

void GradientReducer::assign_buckets(const std::vector<size_t>& order) {
  reductions_.clear();
  reduction_of_.resize(parameters_.size());
  for (auto& bucket : cut_into_buckets(parameters_, order, options_.bucket_bytes)) {
    BucketReduction reduction;
    for (auto index : bucket) {
      reduction.elements += parameters_[index].tensor.numel();
      reduction_of_[index] = reductions_.size();
    }
    reduction.members = std::move(bucket);
    reductions_.push_back(std::move(reduction));
  }
  forget();
}

/// Resets the state of a backward, possibly of one that threw.
void GradientReducer::forget() {
  for (auto& reduction : reductions_) {
    reduction.mean.reset();
    reduction.awaited = reduction.members.size();
  }
  next_ = 0;
  task_ = kNone;
  arrived_.assign(parameters_.size(), false);
  order_.clear();
}

void GradientReducer::watch(at::Tensor& result, bool in_parts) {
  if (!result.requires_grad()) return;
  if (result.is_leaf()) result = result.view_as(result);  // a leaf would keep the hook forever
  result.register_hook(
      [self = shared_from_this(), in_parts](const at::Tensor&) { self->begin_backward(in_parts); });
}

void GradientReducer::pause(bool on) {
  std::lock_guard lock(mutex_);
  is_paused_ = on;
}

void GradientReducer::begin_forward() {
  if (torch::autograd::get_current_graph_task_id() != kNone) return;  // a recomputation
  std::lock_guard lock(mutex_);
  forget();
}

/// Called when a backward reaches the module.
void GradientReducer::begin_backward(bool in_parts) {
  std::lock_guard lock(mutex_);
  if (released_)
    throw UsageError(
        "DataParallel: a backward through a result of a wrapper that is gone, or whose parameters were "
        "changed since; call backward() before");
  auto task = torch::autograd::get_current_graph_task_id();
  if (task == task_) {
    in_parts_ |= in_parts;
    return;
  }
  forget();
  reduce(task, in_parts);
}

void GradientReducer::reduce(int task, bool in_parts) {
  if (is_paused_ || !is_asked_for()) return;
  if (at::GradMode::is_enabled())
    throw UsageError(
        "DataParallel: gradients that are to be differentiated themselves cannot be averaged over ranks; "
        "call backward() without create_graph, or ask for gradients of inputs alone");
  task_ = task;
  in_parts_ = in_parts;
  torch::autograd::Engine::get_default_engine().queue_callback(
      [self = shared_from_this()] { self->finish(); });
}

/// Whether the backward computes the parameters' gradients. Throws Error if it does so only for given inputs
/// (torch::autograd::grad, backward with inputs).
bool GradientReducer::is_asked_for() const {
  auto* only = torch::autograd::get_current_graph_task_exec_info();
  if (!only || only->empty()) return true;
  for (auto& accumulator : accumulators_) {
    auto found = only->find(accumulator.get());
    if (found != only->end() && found->second.should_execute())
      throw UsageError(
          "DataParallel: gradients of parameters by torch::autograd::grad, or by backward with a list of "
          "inputs, would be those of this rank; call backward() without inputs");
  }
  return false;
}

void GradientReducer::arrived(size_t index, bool is_defined) {
  std::lock_guard lock(mutex_);
  if (!is_defined) return;  // no gradient, or one of a re-entrant backward
  had_one_[index] = true;
  if (task_ == kNone) reduce(torch::autograd::get_current_graph_task_id(), true);
  if (task_ == kNone) return;
  if (arrived_[index] && in_parts_) return;
  if (arrived_[index])
    throw UsageError(
        fmt::format("DataParallel: {} had a gradient twice in one backward, as under nested backward passes; "
                    "call the module under no_sync() for all but the last backward",
                    parameters_[index].name));
  arrived_[index] = true;
  order_.push_back(static_cast<int64_t>(index));
  // Ranks that use different parameters would start reductions at different points of backward.
  if (options_.find_unused || in_parts_) return;
  --reductions_[reduction_of_[index]].awaited;
  while (next_ < reductions_.size() && reductions_[next_].awaited == 0) launch(reductions_[next_++]);
}

at::Tensor GradientReducer::gradient(size_t index) const {
  auto& [name, tensor] = parameters_[index];
  auto& grad = tensor.grad();
  if (!grad.defined()) return at::zeros({tensor.numel()}, tensor.options());
  if (grad.layout() != at::kStrided)
    throw UsageError(fmt::format(
        "DataParallel: the gradient of {} is sparse; make the module's embedding with sparse(false)", name));
  return grad.to(tensor.scalar_type()).reshape({-1});
}

void GradientReducer::launch(BucketReduction& reduction) {
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  auto& members = reduction.members;
  auto count = static_cast<int64_t>(members.size());
  std::vector<at::Tensor> pieces;
  for (auto index : members) pieces.push_back(gradient(index));
  auto here = at::ones({count}, pieces[0].options()), not_here = at::zeros_like(here);
  for (int64_t i = 0; i < count; ++i)
    if (!had_one_[members[i]]) here.narrow(0, i, 1).zero_(), not_here.narrow(0, i, 1).fill_(1);
  pieces.insert(pieces.end(), {here, not_here});
  reduction.mean = group_.all_reduce(at::cat(pieces), ReduceOp::mean);
}

/// Called at the end of backward.
void GradientReducer::finish() {
  std::lock_guard lock(mutex_);
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  for (; next_ < reductions_.size(); ++next_) launch(reductions_[next_]);

  std::vector<at::Tensor> means;
  std::vector<bool> had_one(parameters_.size()), had_none(parameters_.size());
  for (auto& reduction : reductions_) {
    means.push_back(reduction.mean->get());
    auto count = static_cast<int64_t>(reduction.members.size());
    auto marks = means.back().narrow(0, reduction.elements, 2 * count).ne(0).cpu();
    auto* mark = marks.const_data_ptr<bool>();
    for (int64_t i = 0; i < count; ++i) {
      had_one[reduction.members[i]] = mark[i];
      had_none[reduction.members[i]] = mark[count + i];
    }
  }
  unused_.clear();
  std::vector<std::string> disputed;  // had a gradient on some ranks only
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (had_none[i]) unused_.push_back(parameters_[i].name);
    if (had_none[i] && had_one[i]) disputed.push_back(parameters_[i].name);
  }
  had_one_.assign(parameters_.size(), false);
  if (!disputed.empty() && !options_.find_unused) {
    forget();
    throw MismatchError(
        fmt::format("DataParallel: {} of {} parameters had no gradient on some rank, and one on another: {}; "
                    "let every rank use each, or set .find_unused_parameters",
                    disputed.size(), parameters_.size(), some_of(disputed)));
  }
  for (size_t i = 0; i < reductions_.size(); ++i) write(reductions_[i], means[i], had_one);
  if (!order_is_learnt_ && !options_.find_unused) learn_order();
  forget();
}

/// A parameter without a gradient on any rank keeps its old one.
void GradientReducer::write(const BucketReduction& reduction, const at::Tensor& mean,
                            const std::vector<bool>& had_one) {
  int64_t at = 0;
  for (auto index : reduction.members) {
    auto parameter = parameters_[index].tensor;
    auto value = mean.narrow(0, at, parameter.numel()).view(parameter.sizes());
    at += parameter.numel();
    if (!had_one[index]) continue;
    auto& grad = parameter.mutable_grad();
    if (!grad.defined()) grad = at::empty_like(parameter);
    grad.copy_(value);
  }
}

/// Rebuilds the buckets in the order in which rank 0's gradients became ready.
void GradientReducer::learn_order() {
  std::vector<size_t> order;
  for (size_t i = parameters_.size(); i-- > 0;)
    if (!arrived_[i]) order_.push_back(static_cast<int64_t>(i));
  auto mine = at::tensor(order_, at::kLong).to(group_.device());
  auto first = group_.broadcast(std::move(mine)).get().cpu();
  auto* index = first.const_data_ptr<int64_t>();
  assign_buckets({index, index + first.numel()});
  order_is_learnt_ = true;
}

}  // namespace wanpar
