#include "strategy/block_pipeline/pipeline_tape.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/flag.hpp"
#include "module/leaves.hpp"
#include "module/shared_parameters.hpp"
#include "strategy/block_pipeline/micro_batches.hpp"

namespace wanpar {
namespace {

at::Tensor leaf(const at::Tensor& x) { return x.detach().requires_grad_(x.requires_grad()); }

}  // namespace

struct PipelineTape::Node : torch::autograd::Function<PipelineTape::Node> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, std::shared_ptr<PipelineTape> tape,
                            at::Tensor* result, at::TensorList inputs) {
    context->saved_data["inputs"] = static_cast<int64_t>(inputs.size());
    context->saved_data["tape"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(std::move(tape)));
    return *result;
  }

  static std::vector<at::Tensor> backward(torch::autograd::AutogradContext* context,
                                          std::vector<at::Tensor> gradients) {
    auto holder = context->saved_data["tape"].toCapsule();
    auto given = static_cast<Holder*>(holder.get())->tape->backward(gradients[0]);
    given.insert(given.begin(), 3, at::Tensor());  // tape, result and anchor have none
    return given;
  }

  struct Holder : torch::CustomClassHolder {
    explicit Holder(std::shared_ptr<PipelineTape> t) : tape(std::move(t)) {}
    std::shared_ptr<PipelineTape> tape;
  };
};

PipelineTape::PipelineTape(std::shared_ptr<PipelineEngine> engine, std::vector<int64_t> sizes, at::Tensor x,
                           std::vector<at::Tensor> side, std::vector<Side> side_kinds)
    : engine_(std::move(engine)),
      sizes_(std::move(sizes)),
      x_(std::move(x)),
      given_side_(std::move(side)),
      side_kinds_(std::move(side_kinds)),
      entered_(sizes_.size()),
      left_(sizes_.size()),
      sides_(sizes_.size()) {
  NoInterceptGuard no_intercept;
  for (size_t i = 0; i < given_side_.size(); ++i) {
    auto& tensor = given_side_[i];
    auto whole = tensor.defined() && side_kinds_[i] == Side::replicate ? leaf(tensor) : at::Tensor();
    for (size_t m = 0; m < sizes_.size(); ++m)
      sides_[m].push_back(tensor.defined() && side_kinds_[i] == Side::split
                              ? leaf(samples_of(tensor, sizes_, static_cast<int64_t>(m)))
                              : whole);
  }
}

at::Tensor PipelineTape::enter(int64_t micro_batch, const at::Tensor& received) {
  auto& entered = entered_[micro_batch];
  entered = received.defined() ? received : leaf(samples_of(x_, sizes_, micro_batch));
  if (entered.requires_grad())
    entered.register_hook([weak = weak_from_this()](const at::Tensor&) {
      auto tape = weak.lock();
      if (!tape || !tape->is_going_back_)
        throw UsageError(
            "BlockPipeline: a gradient has come to a block otherwise than by the result, as by a loss that "
            "the block keeps; it would not be passed on to the blocks before it: give that on as a part of "
            "the result");
    });
  return as_given(entered);
}

Tensors PipelineTape::given(int64_t micro_batch) const {
  auto leaves = sides_[micro_batch];
  leaves.push_back(entered_[micro_batch]);
  return leaves;
}

at::Tensor PipelineTape::attach(std::shared_ptr<PipelineTape> tape, at::Tensor result,
                                Boundaries boundaries) {
  NoInterceptGuard no_intercept;
  tape->boundaries_ = std::move(boundaries);
  // The anchor makes the result require a gradient if only parameters do.
  std::vector<at::Tensor> inputs{at::empty({0}).requires_grad_()};
  if (tape->x_.requires_grad()) inputs.push_back(tape->x_);
  for (auto& tensor : tape->given_side_)
    if (tensor.defined() && tensor.requires_grad()) inputs.push_back(tensor);
  return Node::apply(tape, &result, at::TensorList(inputs));
}

std::vector<at::Tensor> PipelineTape::backward(const at::Tensor& gradient) {
  NoInterceptGuard no_intercept;
  if (at::GradMode::is_enabled())
    throw UsageError(
        "BlockPipeline: gradients of gradients do not pass over stages; call backward without create_graph");
  if (!engine_->shared().empty()) refuse_shared_accumulation("BlockPipeline", engine_->shared());
  if (is_spent_)
    throw UsageError("BlockPipeline: one forward over stages can be gone back through once only");
  is_spent_ = true;
  engine_->set_trained();

  StageWork work;
  work.backward = [&](int64_t m, at::Tensor received) {
    auto y = std::exchange(left_[m], {});
    auto given = engine_->is_last() ? samples_of(gradient, sizes_, m) : std::move(received);
    if (y.requires_grad()) torch::autograd::backward({y}, {given});
    return entered_[m].grad();
  };
  const Flag going_back(is_going_back_);
  StageRunner runner(engine_->stages(), x_.device(), sizes_, std::move(work), engine_->trace());
  auto& stages = engine_->stages();
  runner.run(drain_back(stages.rank(), stages.size(), static_cast<int64_t>(sizes_.size())), boundaries_);

  std::vector<at::Tensor> gradients;
  if (x_.requires_grad()) gradients.push_back(gradient_of_x());
  for (size_t i = 0; i < given_side_.size(); ++i)
    if (given_side_[i].defined() && given_side_[i].requires_grad()) gradients.push_back(gradient_of_side(i));
  return gradients;
}

at::Tensor PipelineTape::gradient_of_x() {
  std::vector<at::Tensor> gradients;
  for (auto& entered : entered_) gradients.push_back(entered.grad());
  auto mine = engine_->is_first() ? joined(gradients, x_) : at::empty(x_.sizes(), x_.options());
  return engine_->stages().broadcast(std::move(mine), 0).get();
}

at::Tensor PipelineTape::gradient_of_side(size_t index) {
  std::vector<at::Tensor> gradients;
  for (auto& side : sides_) gradients.push_back(side[index].grad());
  if (side_kinds_[index] == Side::replicate) gradients.resize(1);  // one leaf for all micro-batches
  return engine_->stages().all_reduce(joined(gradients, given_side_[index])).get();
}

at::Tensor PipelineTape::joined(const std::vector<at::Tensor>& gradients, const at::Tensor& like) const {
  auto whole = at::zeros(like.sizes(), like.options());
  for (size_t m = 0; m < gradients.size(); ++m) {
    if (!gradients[m].defined()) continue;
    auto place = gradients.size() == 1 ? whole : samples_of(whole, sizes_, static_cast<int64_t>(m));
    place.copy_(gradients[m]);
  }
  return whole;
}

}  // namespace wanpar
