// 1F1B: a training step in which each stage starts its backwards as early as possible.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <wanpar/core/agreement.hpp>

#include "module/leaves.hpp"
#include "module/random_state.hpp"
#include "module/same_values.hpp"
#include "strategy/block_pipeline/micro_batches.hpp"
#include "strategy/block_pipeline/pipeline_engine.hpp"
#include "strategy/block_pipeline/pipeline_training.hpp"
#include "strategy/block_pipeline/replicas.hpp"

namespace wanpar {
namespace {

using Loss = BlockPipelineStrategy::Loss;

/// The relative tolerance for losses that are equal up to rounding.
double allowance_of(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? 1e-9 : x.scalar_type() == at::kFloat ? 1e-4 : 2e-2;
}

/// A batch, split into micro-batches.
class Batch {
 public:
  Batch(Tensors inputs, at::Tensor target, const TrainOptions& options, int64_t micro_batches)
      : inputs_(std::move(inputs)), target_(std::move(target)), options_(options) {
    if (target_.dim() == 0)
      throw UsageError("train_step: the target has no dimension 0, which is to be the batch");
    samples_ = target_.size(0);
    if (samples_ == 0) throw UsageError("train_step: the batch is empty");
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (!inputs_[i].defined() || is_replicated(i)) continue;
      if (inputs_[i].dim() == 0 || inputs_[i].size(0) != samples_)
        throw UsageError(
            fmt::format("train_step: input {} is {}, but the target has {} samples; name in .replicate the "
                        "inputs that are not per sample",
                        i, inputs_[i].sizes(), samples_));
      inputs_[i] = inputs_[i].detach();
    }
    sizes_ = micro_batch_sizes(samples_, micro_batches);
    weigh();
  }

  const std::vector<int64_t>& sizes() const { return sizes_; }
  int64_t count() const { return static_cast<int64_t>(sizes_.size()); }
  Tensors inputs(int64_t m) const {
    auto mine = inputs_;
    for (size_t i = 0; i < mine.size(); ++i)
      if (mine[i].defined() && !is_replicated(i)) mine[i] = samples_of(mine[i], sizes_, m);
    return mine;
  }
  at::Tensor target(int64_t m) const { return samples_of(target_, sizes_, m); }
  /// Everything that must be equal on every stage.
  NamedTensors given() const {
    NamedTensors all;
    for (size_t i = 0; i < inputs_.size(); ++i) all.push_back({fmt::format("input {}", i), inputs_[i]});
    all.push_back({"target", target_});
    return all;
  }
  bool is_mean() const { return options_.loss == LossOf::mean; }
  /// The weight of a micro-batch in the mean over the batch.
  double weight(int64_t m) const { return weights_[m]; }
  /// The factor of a micro-batch's loss in that of the batch.
  double share(int64_t m) const { return is_mean() ? weights_[m] / total_ : 1; }
  std::string signature() const {
    auto text = fmt::format("train {} {}", samples_, count());
    for (auto& input : inputs_)
      text +=
          input.defined() ? fmt::format(" {}{}", c10::toString(input.scalar_type()), input.sizes()) : " none";
    return text;
  }

 private:
  bool is_replicated(size_t input) const { return options_.replicate.name(std::to_string(input)); }

  /// Collective over the replicas, whose weights may differ.
  void weigh() {
    for (int64_t m = 0; m < count(); ++m)
      weights_.push_back(options_.weight ? options_.weight(target(m)).item<double>()
                                         : static_cast<double>(sizes_[m]));
    for (auto weight : weights_) total_ += weight;
    if (!options_.weight) return;
    if (!is_mean()) throw UsageError("train_step: .weight is for a mean; a sum weighs nothing");
    auto& replicas = options_.replicas;
    auto mine = at::tensor({total_}, at::kDouble).to(replicas.device());
    total_ = replicas.all_reduce(std::move(mine), ReduceOp::mean).get().item<double>();
    if (!(total_ > 0))
      throw UsageError(
          fmt::format("train_step: the targets of this batch weigh {} by .weight; a mean needs more "
                      "than nothing",
                      total_));
  }

  Tensors inputs_;
  at::Tensor target_;
  const TrainOptions& options_;
  int64_t samples_ = 0;
  std::vector<int64_t> sizes_;
  std::vector<double> weights_;
  double total_ = 0;
};

/// Accumulates the loss of a batch over its micro-batches, and verifies that a mean is one: the loss of two
/// consecutive micro-batches together must be the mean of their losses.
class BatchLoss {
 public:
  BatchLoss(const Loss& loss, const Batch& batch) : loss_(loss), batch_(batch) {}

  /// The contribution of a micro-batch to the loss of the batch.
  at::Tensor of(const at::Tensor& output, int64_t m) {
    const auto before = RandomState::now(output.device());
    auto value = batch_.weight(m) == 0 && batch_.is_mean()
                     ? (output * 0).sum()  // a mean over no targets would be NaN
                     : loss_(output, batch_.target(m));
    if (value.numel() != 1)
      throw UsageError(fmt::format("train_step: the loss is {}, but must be one number", value.sizes()));
    if (batch_.is_mean() && batch_.count() > 1 && RandomState::now(output.device()) == before)
      compare({output.detach(), value.detach(), m});
    auto part = value * batch_.share(m);
    total_ = total_.defined() ? total_ + part.detach() : part.detach();
    return part;
  }

  /// The total. Throws Error if the loss is not the mean that it should be.
  double total() const {
    for (auto& [together, apart, scale] : pairs_) {
      auto a = together.item<double>(), b = apart.item<double>();
      if (std::isnan(a) && std::isnan(b)) continue;
      if (!(std::abs(a - b) <= allowance_of(together) * scale.item<double>()))
        throw UsageError(fmt::format(
            "train_step: the loss is no mean over samples: of two micro-batches together it is {:.6g}, "
            "while the mean of both is {:.6g}; where it is a mean over a part of the targets "
            "(ignore_index, class weights, a mask), say in .weight what those of a micro-batch weigh, "
            "and where it is a sum, set .loss = LossOf::sum",
            a, b));
    }
    return total_.defined() ? total_.item<double>() : 0;
  }

 private:
  struct Part {
    at::Tensor output, value;
    int64_t micro_batch;
  };
  struct Pair {
    at::Tensor together, apart, scale;
  };

  void compare(Part part) {
    auto last = std::exchange(last_, std::move(part));
    if (!last.output.defined()) return;
    NoInterceptGuard no_intercept;
    at::NoGradGuard no_grad;
    const auto a = batch_.weight(last.micro_batch), b = batch_.weight(last_.micro_batch);
    if (a + b == 0) return;
    auto target = at::cat({batch_.target(last.micro_batch), batch_.target(last_.micro_batch)});
    auto together = loss_(at::cat({last.output, last_.output}), target);
    pairs_.push_back({together, (last.value * a + last_.value * b) / (a + b),
                      at::max(last.value.abs(), last_.value.abs())});
  }

  const Loss& loss_;
  const Batch& batch_;
  Part last_;
  std::vector<Pair> pairs_;
  at::Tensor total_;
};

/// Sums this step's gradients of parameters that several stages use over the stages, and accumulates them
/// into the gradients from before.
class SharedGradients {
 public:
  /// RAII: sets aside the gradients of parameters that are not this stage's own, so that they collect this
  /// step's only.
  explicit SharedGradients(PipelineEngine& engine) : engine_(engine) {
    std::unordered_set<const at::TensorImpl*> seen;
    for (auto& [name, parameter] : engine.parameters()) {
      auto owner = owner_among(engine.stacks(), parameter);
      bool is_new = seen.insert(parameter.unsafeGetTensorImpl()).second;
      if (!is_new || !parameter.requires_grad() || owner == engine.stages().rank()) continue;
      auto& list = owner < 0 ? shared_ : foreign_;
      list.push_back({parameter, parameter.grad()});
      parameter.mutable_grad() = at::Tensor();
    }
  }

  ~SharedGradients() {
    for (auto* list : {&shared_, &foreign_})
      for (auto& entry : *list) entry.give_back();
  }
  SharedGradients(const SharedGradients&) = delete;
  SharedGradients& operator=(const SharedGradients&) = delete;

  /// Collective. Also sums the loss over the stages, and returns it.
  double sum(double loss) {
    NoInterceptGuard no_intercept;
    at::NoGradGuard no_grad;
    // The loss, the number of parameters of other stages with a gradient here, and which shared ones have
    // one.
    std::vector<double> counts{loss, 0};
    for (auto& entry : foreign_)
      if (entry.give_back().defined()) ++counts[1];
    for (auto& entry : shared_) counts.push_back(entry.parameter.grad().defined() ? 1 : 0);
    auto& stages = engine_.stages();
    auto all = stages.all_reduce(at::tensor(counts, at::kDouble).to(stages.device())).get().cpu();
    auto totals = std::span(all.const_data_ptr<double>(), counts.size());
    if (totals[1] > 0)
      throw UsageError(
          "train_step: a parameter got a gradient on a stage that does not hold its block; use a parameter "
          "in one block only, or list it outside of the blocks");
    for (size_t i = 0; i < shared_.size(); ++i) {
      auto& parameter = shared_[i].parameter;
      auto gradient = shared_[i].give_back();
      if (totals[i + 2] == 0) continue;
      if (!gradient.defined()) gradient = at::zeros_like(parameter);
      gradient = stages.all_reduce(std::move(gradient)).get();
      if (parameter.grad().defined())
        parameter.mutable_grad().add_(gradient);
      else
        parameter.mutable_grad() = gradient.variable_data();  // a view could not be detached in place
    }
    return totals[0];
  }

 private:
  struct Entry {
    at::Tensor parameter, before;
    bool is_taken = true;

    /// Restores the gradients from before, and returns this step's.
    at::Tensor give_back() {
      if (!std::exchange(is_taken, false)) return {};
      return std::exchange(parameter.mutable_grad(), std::move(before));
    }
  };
  PipelineEngine& engine_;
  std::vector<Entry> shared_, foreign_;
};

/// The forward and backward of one stage for a micro-batch.
class TrainingStage {
 public:
  TrainingStage(PipelineEngine& engine, const Model& forward, const Batch& batch, const Loss& loss)
      : engine_(engine),
        forward_(forward),
        batch_(batch),
        loss_(loss, batch),
        entered_(batch.sizes().size()),
        left_(batch.sizes().size()) {}

  StageWork work() {
    return {[this](int64_t m, at::Tensor received) { return forward(m, std::move(received)); },
            [this](int64_t m, at::Tensor gradient) { return backward(m, std::move(gradient)); }};
  }
  double loss() const { return loss_.total(); }

 private:
  at::Tensor forward(int64_t m, at::Tensor received) {
    entered_[m] = received;
    PipelineEngine::Passage passage{as_given(received), batch_.count() > 1};
    return left_[m] = pass(passage, m);
  }

  at::Tensor pass(PipelineEngine::Passage& passage, int64_t m) {
    engine_.set_passage(&passage);
    engine_.begin_pass();
    struct Leave {
      PipelineEngine& engine;
      ~Leave() { engine.set_passage(nullptr); }
    } leave{engine_};
    Scope scope(engine_);
    auto output = forward_.call(batch_.inputs(m));
    engine_.end_passage();
    if (!engine_.is_last()) return passage.left;
    auto loss = loss_.of(output, m);
    engine_.check_outside({loss}, {passage.left}, Shared::summed);
    return loss;
  }

  at::Tensor backward(int64_t m, at::Tensor gradient) {
    NoInterceptGuard no_intercept;
    auto y = std::exchange(left_[m], {});
    auto entered = std::exchange(entered_[m], {});
    if (y.requires_grad()) torch::autograd::backward({y}, {gradient});
    return entered.defined() ? entered.grad() : at::Tensor();
  }

  PipelineEngine& engine_;
  const Model& forward_;
  const Batch& batch_;
  BatchLoss loss_;
  Tensors entered_, left_;
};

/// The ranges of each stack, as text.
std::string text_of_ranges(const std::deque<PipelineStack>& stacks) {
  std::string text;
  for (auto& stack : stacks) {
    for (auto& range : stack.ranges()) text += fmt::format("[{}, {}) ", range.begin, range.end);
    text += '\n';
  }
  return text;
}

double train_on_one_stage(const Batch& batch, const Model& forward, const Loss& loss) {
  BatchLoss losses(loss, batch);
  for (int64_t m = 0; m < batch.count(); ++m)
    torch::autograd::backward({losses.of(forward.call(batch.inputs(m)), m)});
  return losses.total();
}

double train_on_stages(const std::shared_ptr<PipelineEngine>& engine, const Batch& batch,
                       const Model& forward, const Loss& loss, at::Device device) {
  auto& stages = engine->stages();
  require_same_values(
      "train_step", "batches", {stages}, batch.given(),
      "every stage is to be given the same inputs and targets: let all ranks load and shuffle "
      "alike, or broadcast them");
  engine->trace().clear();
  for (auto& stack : engine->stacks()) stack.begin_pass();
  auto& known = engine->learnt()[batch.signature() + " " + trained_among(engine->parameters())];
  TrainingStage stage(*engine, forward, batch, loss);
  StageRunner runner(stages, device, batch.sizes(), stage.work(), engine->trace());
  if (known.empty()) {
    auto last = stages.size() - 1;
    known = runner.learn([&](int at) { return batch.count() > 1 && at != last; });
  }
  engine->check_own_parameters();
  engine->set_trained();
  SharedGradients shared(*engine);
  runner.run(one_forward_one_backward(stages.rank(), stages.size(), batch.count()), known);
  return shared.sum(stage.loss());
}

}  // namespace

at::Tensor train_step(const std::shared_ptr<PipelineEngine>& engine, const Model& forward, Tensors inputs,
                      at::Tensor target, const Loss& loss, const TrainOptions& options) {
  at::AutoGradMode gradients(true);
  auto device = target.device();
  Batch batch(std::move(inputs), std::move(target), options, engine->options().micro_batches);
  auto total = engine->stages().size() == 1 ? train_on_one_stage(batch, forward, loss)
                                            : train_on_stages(engine, batch, forward, loss, device);
  if (options.replicas.size() > 1) {
    require_same("BlockPipeline", "ranges", {options.replicas}, text_of_ranges(engine->stacks()));
    total = average_over(options.replicas, engine->parameters(), total);
  }
  return at::scalar_tensor(total, at::TensorOptions(device).dtype(at::kDouble));
}

}  // namespace wanpar
