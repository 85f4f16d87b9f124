#include "strategy/sharded_params/sharded_gradients.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include "core/hash.hpp"

namespace wanpar {
namespace {

int64_t mixed(int64_t value, int64_t with) {
  return static_cast<int64_t>(hashed_with(value, with) >> 1);  // can be negated without overflow
}

bool any(const std::vector<at::Tensor>& gradients) {
  return std::any_of(gradients.begin(), gradients.end(), [](auto& x) { return x.defined(); });
}

}  // namespace

/// Pre-hook of a leaf's AccumulateGrad.
class ShardedGradients::Arriving : public torch::autograd::FunctionPreHook {
 public:
  explicit Arriving(std::weak_ptr<ShardedGradients> gradients) : gradients_(std::move(gradients)) {}

  torch::autograd::variable_list operator()(const torch::autograd::variable_list& inputs) override {
    if (auto gradients = gradients_.lock()) gradients->begin_backward();
    return inputs;
  }

 private:
  std::weak_ptr<ShardedGradients> gradients_;
};

/// Post-hook of a leaf's AccumulateGrad.
class ShardedGradients::Arrived : public torch::autograd::FunctionPostHook {
 public:
  Arrived(std::weak_ptr<ShardedGradients> gradients, size_t reduction, size_t leaf)
      : gradients_(std::move(gradients)), reduction_(reduction), leaf_(leaf) {}

  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    if (auto gradients = gradients_.lock()) gradients->arrived(reduction_, leaf_);
    return outputs;
  }

 private:
  std::weak_ptr<ShardedGradients> gradients_;
  size_t reduction_, leaf_;
};

/// The models that take part in the same backward of this process.
class ShardedGradients::Companions {
 public:
  static void join(int backward, ShardedGradients* one) {
    std::lock_guard lock(mutex_);
    for (auto& [id, all] : of_backward_) all.erase(one->number_);
    std::erase_if(of_backward_, [](auto& item) { return item.second.empty(); });
    auto& all = of_backward_[backward];
    all[one->number_] = one;
    if (all.size() > 1)
      for (auto& [number, other] : all) other->has_company_ = true;
  }

  /// In the order of wrapping.
  static std::vector<ShardedGradients*> take(int backward) {
    std::lock_guard lock(mutex_);
    std::vector<ShardedGradients*> taken;
    for (auto& [number, one] : of_backward_[backward]) taken.push_back(one);
    of_backward_.erase(backward);
    return taken;
  }

  static void leave(ShardedGradients* one) {
    std::lock_guard lock(mutex_);
    for (auto& [id, all] : of_backward_) all.erase(one->number_);
  }

  static int64_t next_number() {
    static std::atomic<int64_t> next = 0;
    return next++;
  }

 private:
  static inline std::mutex mutex_;  // ranks may be threads
  static inline std::map<int, std::map<int64_t, ShardedGradients*>> of_backward_;
};

bool ShardedGradients::Reduction::is_complete() const {
  return std::all_of(arrived.begin(), arrived.end(), [](bool has) { return has; });
}

bool ShardedGradients::Reduction::waits() const {
  return flat->has_gradients() || (!has_left && any(before));
}

void ShardedGradients::Reduction::note() {
  flat->each_leaf([&](size_t i, auto& leaf) {
    bool was_here = !has_left && i < before.size() && before[i].defined();
    if (leaf.tensor.grad().defined() || was_here) had[leaf.shard] = true;
  });
}

ShardedGradients::ShardedGradients(Communicator group, std::vector<Communicator> alike,
                                   std::shared_ptr<ShardSchedule> schedule,
                                   const std::vector<Expected>& order)
    : group_(std::move(group)),
      alike_(std::move(alike)),
      schedule_(std::move(schedule)),
      number_(Companions::next_number()) {
  for (auto& [flat, after] : order) {
    schedule_->add_reduction(after, !flat->is_trained());
    reductions_.push_back({.flat = flat});
    reductions_.back().is_heard.resize(flat->leaves());
    reductions_.back().had.resize(flat->shards().size());
  }
}

ShardedGradients::~ShardedGradients() {
  Companions::leave(this);
  for (auto& [accumulator, key] : hooks_) accumulator->del_post_hook(key);
}

void ShardedGradients::listen() {
  for (size_t i = 0; i < reductions_.size(); ++i)
    reductions_[i].flat->each_leaf([&](size_t number, auto& leaf) {
      if (!leaf.tensor.requires_grad() || reductions_[i].is_heard[number]) return;
      reductions_[i].is_heard[number] = true;
      schedule_->set_idle(i, false);
      auto accumulator = torch::autograd::impl::grad_accumulator(leaf.tensor);
      accumulator->add_pre_hook(std::make_unique<Arriving>(weak_from_this()));
      auto key = accumulator->add_post_hook(std::make_unique<Arrived>(weak_from_this(), i, number));
      hooks_.emplace_back(std::move(accumulator), key);
    });
}

void ShardedGradients::before_gather(int64_t unit) {
  if (BackwardPass::is_running()) {
    auto* only = torch::autograd::get_current_graph_task_exec_info();
    bool is_for_all = !only || only->empty();
    if (is_for_all) begin_backward();
    count_gathers();
    launch(schedule_->reductions_before_gather());
  }
  exchanges_ = mixed(exchanges_, 2 * unit);
}

/// Call before the first gradient of a backward; later calls have no effect.
void ShardedGradients::begin_backward() {
  if (!alive_.expired()) return;
  auto token = std::make_shared<int>();
  bool is_first = pass_.begin_once([self = weak_from_this(), token] {
    if (auto gradients = self.lock()) gradients->finish_all();
  });
  if (!is_first) return;
  alive_ = token;
  count_gathers();
  if (is_under_way_) forget();  // a backward that threw
  for (auto& reduction : reductions_) reduction.flat->drop_stand_ins();
  is_under_way_ = pauses_ == 0 && !reductions_.empty();
  if (!is_under_way_) return;
  schedule_->begin_gradients();
  has_company_ = false;
  Companions::join(pass_.id(), this);
  for (auto& reduction : reductions_) {
    reduction.before = reduction.flat->take_gradients();
    reduction.flat->each_leaf(
        [&](size_t, auto& leaf) { reduction.arrived.push_back(!leaf.tensor.requires_grad()); });
  }
}

/// Restarts the count of gathers in each backward.
void ShardedGradients::count_gathers() {
  if (gathering_.begin_once([] {})) schedule_->begin_gathers();
}

/// Drops the gradients of the current backward, and restores those from before.
void ShardedGradients::forget() {
  for (auto& reduction : reductions_) reduction.flat->put_gradients(std::exchange(reduction.before, {}));
  reset();
}

void ShardedGradients::reset() {
  in_flight_.clear();
  for (auto& reduction : reductions_) {
    reduction.before.clear();
    reduction.arrived.clear();
    reduction.has_left = false;
    reduction.had.assign(reduction.had.size(), false);
    reduction.mean.reset();
    reduction.sum.reset();
  }
  is_under_way_ = false;
}

void ShardedGradients::arrived(size_t index, size_t leaf) {
  if (!is_under_way_) return;
  auto& reduction = reductions_[index];
  if (reduction.arrived[leaf]) return;
  reduction.arrived[leaf] = true;
  const bool is_complete = reduction.is_complete();
  schedule_->gradient_arrived(index, is_complete);
  if (is_complete && is_alone_ && !has_company_) launch(schedule_->complete_reductions());
}

void ShardedGradients::launch(const std::vector<size_t>& reductions) {
  if (!is_under_way_) return;
  for (auto index : reductions) launch(reductions_[index]);
}

void ShardedGradients::launch(Reduction& reduction) {
  RECORD_USER_SCOPE("ShardedParams: reduce gradients");
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  reduction.note();
  std::vector<std::vector<at::Tensor>> lists{reduction.flat->take_gradients()};
  if (!std::exchange(reduction.has_left, true)) lists.push_back(reduction.before);
  exchanges_ = mixed(exchanges_, 2 * (&reduction - reductions_.data()) + 1);
  reduction.mean = reduction.flat->reduce(lists);
  in_flight_.push_back(&reduction);
  wait_until_in_flight(1);
}

void ShardedGradients::wait_until_in_flight(size_t max) {
  for (; in_flight_.size() > max; in_flight_.pop_front()) {
    auto& reduction = *in_flight_.front();
    auto mean = reduction.mean->get();
    reduction.mean.reset();
    for (auto& alike : alike_) mean = alike.all_reduce(std::move(mean), ReduceOp::mean).get();
    reduction.sum = reduction.sum.defined() ? reduction.sum.add_(mean) : mean;
  }
}

/// Called at the end of backward. Which model's callback runs first may differ by rank.
void ShardedGradients::finish_all() {
  for (auto* one : Companions::take(pass_.id())) one->finish();
  finish();  // ends the pass of a model that reduces nothing
}

void ShardedGradients::finish() {
  alive_.reset();
  if (!is_under_way_) return;
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  launch(schedule_->remaining_reductions());
  wait_until_in_flight(0);

  std::vector<int64_t> words{exchanges_, -exchanges_, has_company_};
  for (auto& reduction : reductions_) {
    reduction.note();
    words.push_back(reduction.waits());
    words.insert(words.end(), reduction.had.begin(), reduction.had.end());
  }
  exchanges_ = 0;
  auto greatest = [&](const Communicator& among) {
    auto mine = at::tensor(words, at::kLong).to(among.device());
    auto all = among.all_reduce(std::move(mine), ReduceOp::max).get().cpu();
    words.assign(all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel());
  };
  greatest(group_);
  // Replicas may gather differently; only ranks of one group must have done the same.
  words[1] = words[0] == -words[1] ? 0 : 1, words[0] = 0;
  for (auto& alike : alike_) greatest(alike);
  if (words[1] != 0) {
    forget();
    throw MismatchError(
        "ShardedParams: the ranks gathered different units, or in another order, since the last backward, so "
        "its results are wrong; every rank must use the same units (no skipped layers), or set .sharding to "
        "Sharding::no_shard; on groups that are `checked` the error names the unit");
  }

  is_alone_ = words[2] == 0;
  auto word = words.begin() + 3;
  for (auto& reduction : reductions_) {
    if (*word++) launch(reduction);
    for (size_t i = 0; i < reduction.had.size(); ++i) reduction.had[i] = *word++;
  }
  wait_until_in_flight(0);
  for (size_t i = 0; i < reductions_.size(); ++i) {
    auto& reduction = reductions_[i];
    const bool is_idle =
        std::none_of(reduction.had.begin(), reduction.had.end(), [](bool had) { return had; });
    schedule_->set_idle(i, is_idle);
    if (!is_idle) reduction.flat->accumulate(reduction.sum, reduction.had);
    reduction.flat->stand_in_for_gradients();
  }
  if (!order_is_learnt_) learn_order();
  reset();
}

/// Adopts what rank 0 has seen of this backward.
void ShardedGradients::learn_order() {
  auto seen = at::tensor(schedule_->seen_reductions(), at::kLong).to(group_.device());
  seen = group_.broadcast(std::move(seen)).get().cpu();
  for (auto& alike : alike_) seen = alike.broadcast(seen.to(alike.device())).get().cpu();
  schedule_->adopt({seen.const_data_ptr<int64_t>(), static_cast<size_t>(seen.numel())});
  order_is_learnt_ = true;
}

}  // namespace wanpar
