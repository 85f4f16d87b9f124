// One forward, one backward: a training step in which each stage begins to go back as soon as it can.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <unordered_set>
#include <wanpar/core/agreement.hpp>

#include "strategy/block_pipeline/micro_batches.hpp"
#include "strategy/block_pipeline/pipeline_engine.hpp"
#include "strategy/block_pipeline/pipeline_training.hpp"
#include "strategy/block_pipeline/replicas.hpp"

namespace wanpar {
namespace {

using Loss = BlockPipelineStrategy::Loss;

/// A batch in its micro-batches.
class Batch {
 public:
  Batch(Tensors inputs, at::Tensor target, const TrainOptions& options, int64_t micro_batches)
      : inputs_(std::move(inputs)), target_(std::move(target)), options_(options) {
    if (target_.dim() == 0)
      throw Error("train_step: the target has no dimension 0, which is to be the batch");
    samples_ = target_.size(0);
    if (samples_ == 0) throw Error("train_step: the batch is empty");
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (!inputs_[i].defined() || is_whole(i)) continue;
      if (inputs_[i].dim() == 0 || inputs_[i].size(0) != samples_)
        throw Error(
            fmt::format("train_step: input {} is {}, but the target has {} samples; name in .whole the "
                        "inputs that are not per sample",
                        i, inputs_[i].sizes(), samples_));
      inputs_[i] = inputs_[i].detach();
    }
    sizes_ = micro_batch_sizes(samples_, micro_batches);
  }

  const std::vector<int64_t>& sizes() const { return sizes_; }
  int64_t count() const { return static_cast<int64_t>(sizes_.size()); }
  Tensors inputs(int64_t m) const {
    auto mine = inputs_;
    for (size_t i = 0; i < mine.size(); ++i)
      if (mine[i].defined() && !is_whole(i)) mine[i] = samples_of(mine[i], sizes_, m);
    return mine;
  }
  /// What a micro-batch adds to the loss of the batch.
  at::Tensor loss(const Loss& loss, at::Tensor output, int64_t m) const {
    auto value = loss(std::move(output), samples_of(target_, sizes_, m));
    if (value.numel() != 1)
      throw Error(fmt::format("train_step: the loss is {}, but must be one number", value.sizes()));
    if (options_.loss == LossOf::sum) return value;
    return value * (static_cast<double>(sizes_[m]) / static_cast<double>(samples_));
  }
  std::string signature() const {
    auto text = fmt::format("train {} {}", samples_, count());
    for (auto& input : inputs_)
      text +=
          input.defined() ? fmt::format(" {}{}", c10::toString(input.scalar_type()), input.sizes()) : " none";
    return text;
  }

 private:
  bool is_whole(size_t input) const { return options_.whole.name(std::to_string(input)); }

  Tensors inputs_;
  at::Tensor target_;
  const TrainOptions& options_;
  int64_t samples_ = 0;
  std::vector<int64_t> sizes_;
};

/// Gradients of the parameters that more than one stage uses: those of this step are summed over the stages,
/// then added to what was there before.
class SharedGradients {
 public:
  /// From now on, gradients of parameters that are not this stage's own are those of this step.
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

  /// Collective. Gives the loss of all stages beside.
  double sum(double loss) {
    Plain plain;
    at::NoGradGuard no_grad;
    // The loss, how many parameters of other stages got a gradient here, which shared ones got one.
    std::vector<double> counts{loss, 0};
    for (auto& [parameter, before] : foreign_) {
      if (parameter.grad().defined()) ++counts[1];
      parameter.mutable_grad() = before;
    }
    for (auto& [parameter, before] : shared_) counts.push_back(parameter.grad().defined() ? 1 : 0);
    auto& stages = engine_.stages();
    auto all = stages.all_reduce(at::tensor(counts, at::kDouble).to(stages.device())).get().cpu();
    auto totals = std::span(all.const_data_ptr<double>(), counts.size());
    if (totals[1] > 0)
      throw Error(
          "train_step: a parameter got a gradient on a stage that does not hold its block; use a parameter "
          "in one block only, or list it outside of the blocks");
    for (size_t i = 0; i < shared_.size(); ++i) {
      auto& [parameter, before] = shared_[i];
      auto gradient = parameter.grad();
      parameter.mutable_grad() = before;
      if (totals[i + 2] == 0) continue;
      if (!gradient.defined()) gradient = at::zeros_like(parameter);
      gradient = stages.all_reduce(std::move(gradient)).get();
      if (before.defined())
        before.add_(gradient);
      else
        parameter.mutable_grad() = gradient;
    }
    return totals[0];
  }

 private:
  struct Entry {
    at::Tensor parameter, before;
  };
  PipelineEngine& engine_;
  std::vector<Entry> shared_, foreign_;
};

/// While it lives, the engine looks at which parameters are used where.
class Examination {
 public:
  explicit Examination(PipelineEngine& engine) : engine_(engine) { engine_.use().examine(true); }
  ~Examination() { engine_.use().examine(false); }
  Examination(const Examination&) = delete;
  Examination& operator=(const Examination&) = delete;

 private:
  PipelineEngine& engine_;
};

/// The forward and backward of one stage, a micro-batch at a time.
class TrainingStage {
 public:
  TrainingStage(PipelineEngine& engine, const Model& forward, const Batch& batch, const Loss& loss)
      : engine_(engine),
        forward_(forward),
        batch_(batch),
        loss_(loss),
        entered_(batch.sizes().size()),
        left_(batch.sizes().size()) {}

  StageWork work() {
    return {[this](int64_t m, at::Tensor received) { return forward(m, std::move(received)); },
            [this](int64_t m, at::Tensor gradient) { return backward(m, std::move(gradient)); }};
  }
  double loss() const { return total_.defined() ? total_.item<double>() : 0; }

 private:
  at::Tensor forward(int64_t m, at::Tensor received) {
    PipelineEngine::Passage passage{received, batch_.count() > 1};
    auto y = pass(passage, m);
    if (engine_.is_last()) total_ = total_.defined() ? total_ + y.detach() : y.detach();
    if (m == 0) engine_.check_use(ParameterUse::Shared::summed);
    entered_[m] = std::move(received);
    return left_[m] = y;
  }

  at::Tensor pass(PipelineEngine::Passage& passage, int64_t m) {
    engine_.set_passage(&passage);
    engine_.begin();
    struct Leave {
      PipelineEngine& engine;
      ~Leave() { engine.set_passage(nullptr); }
    } leave{engine_};
    Scope scope(engine_);
    auto output = forward_.call(batch_.inputs(m));
    engine_.end_passage();
    return engine_.is_last() ? batch_.loss(loss_, std::move(output), m) : passage.left;
  }

  at::Tensor backward(int64_t m, at::Tensor gradient) {
    Plain plain;
    auto y = std::exchange(left_[m], {});
    auto entered = std::exchange(entered_[m], {});
    if (y.requires_grad()) torch::autograd::backward({y}, {gradient});
    return entered.defined() ? entered.grad() : at::Tensor();
  }

  PipelineEngine& engine_;
  const Model& forward_;
  const Batch& batch_;
  const Loss& loss_;
  Tensors entered_, left_;
  at::Tensor total_;
};

/// A line for each stack.
std::string text_of_ranges(const std::deque<PipelineStack>& stacks) {
  std::string text;
  for (auto& stack : stacks) {
    for (auto& range : stack.ranges()) text += fmt::format("[{}, {}) ", range.begin, range.end);
    text += '\n';
  }
  return text;
}

double train_on_one_stage(const Batch& batch, const Model& forward, const Loss& loss) {
  at::Tensor total;
  for (int64_t m = 0; m < batch.count(); ++m) {
    auto value = batch.loss(loss, forward.call(batch.inputs(m)), m);
    total = total.defined() ? total + value.detach() : value.detach();
    torch::autograd::backward({value});
  }
  return total.item<double>();
}

double train_on_stages(const std::shared_ptr<PipelineEngine>& engine, const Batch& batch,
                       const Model& forward, const Loss& loss, at::Device device) {
  auto& stages = engine->stages();
  engine->trace().clear();
  for (auto& stack : engine->stacks()) stack.begin_pass();
  auto& known = engine->learnt()[batch.signature() + " " + trained_among(engine->parameters())];
  TrainingStage stage(*engine, forward, batch, loss);
  StageRunner runner(stages, device, batch.sizes(), stage.work(), engine->trace());
  if (known.empty()) {
    Examination examination(*engine);
    auto last = stages.size() - 1;
    known = runner.learn([&](int at) { return batch.count() > 1 && at != last; });
  }
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
