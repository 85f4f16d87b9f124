#include "strategy/block_pipeline/pipeline_runner.hpp"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {
namespace {

using Kind = PipelineStep::Kind;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void StageRunner::Link::finish_first() {
  auto values = posted.front().exchange.get();
  if (posted.front().receives >= 0) arrived[posted.front().receives] = values[0];
  posted.pop_front();
}

at::Tensor StageRunner::Link::take(int64_t micro_batch) {
  NoInterceptGuard no_intercept;
  while (!arrived.contains(micro_batch)) finish_first();
  return arrived.extract(micro_batch).mapped();
}

StageRunner::StageRunner(Communicator group, at::Device device, std::vector<int64_t> sizes, StageWork work,
                         std::vector<PipelineEvent>& trace)
    : group_(std::move(group)),
      device_(device),
      sizes_(std::move(sizes)),
      work_(std::move(work)),
      trace_(trace),
      previous_{group_.rank() - 1},
      next_{group_.rank() + 1} {}

Boundaries StageRunner::learn(const std::function<bool(int stage)>& is_batched) {
  for (int stage = 0; stage < group_.size(); ++stage) {
    auto text = broadcast_text(group_, stage, [&] { return first_forward(is_batched(stage)).text(); });
    NoInterceptGuard no_intercept;
    boundaries_.push_back(Boundary::from_text(text));
    if (stage == group_.rank() && !is_last())
      post(next_, activations_.extract(0).mapped(), PipelineStep::kNone, stage);
    if (stage + 1 == group_.rank()) post(previous_, {}, 0, stage);
  }
  first_is_done_ = true;
  return boundaries_;
}

/// Runs the first micro-batch through this stage.
Boundary StageRunner::first_forward(bool is_batched) {
  auto result = compute(work_.forward, false, 0, take_activation(0));
  auto mine = Boundary::of(result);
  mine.writes = work_.has_written && work_.has_written();
  if (is_batched && (mine.shape.empty() || mine.shape[0] != sizes_[0]))
    throw UsageError(fmt::format(
        "BlockPipeline: an activation {} of {} samples was met; dimension 0 must remain the batch "
        "where it is cut into micro-batches",
        mine.shape, sizes_[0]));
  if (!is_last()) activations_[0] = result.detach();
  return mine;
}

bool StageRunner::is_done(const PipelineStep& step) const {
  if (!first_is_done_) return false;
  switch (step.kind) {
    case Kind::forward:
      return step.micro_batch == 0;
    case Kind::backward:
      return false;
    case Kind::with_previous:
      return step.receive == 0 && step.send < 0;
    case Kind::with_next:
      return step.send == 0;
  }
  return false;
}

void StageRunner::run(const PipelineSteps& steps, const Boundaries& boundaries) {
  boundaries_ = boundaries;
  auto pick = [](std::map<int64_t, at::Tensor>& from, int64_t m) {
    auto found = from.extract(m);
    return found ? std::move(found.mapped()) : at::Tensor();
  };
  for (auto& step : steps) {
    if (is_done(step)) continue;
    switch (step.kind) {
      case Kind::forward:
        forward(step.micro_batch);
        break;
      case Kind::backward:
        backward(step.micro_batch);
        break;
      case Kind::with_next:
        post(next_, pick(activations_, step.send),
             next_gives_gradients() ? step.receive : PipelineStep::kNone, group_.rank());
        break;
      case Kind::with_previous:
        post(previous_, pick(gradients_, step.send), step.receive, group_.rank() - 1);
        break;
    }
  }
  for (auto* link : {&previous_, &next_})
    while (!link->posted.empty()) link->finish_first();
}

at::Tensor StageRunner::take_activation(int64_t micro_batch) {
  if (is_first()) return {};
  auto x = previous_.take(micro_batch);
  if (previous_wants_gradients()) x.requires_grad_();
  return x;
}

void StageRunner::forward(int64_t micro_batch) {
  RECORD_USER_SCOPE("BlockPipeline: forward");
  auto result = compute(work_.forward, false, micro_batch, take_activation(micro_batch));
  auto& expected = boundaries_[group_.rank()];
  auto gradient = [](bool is_wanted) { return is_wanted ? "with a gradient" : "without a gradient"; };
  if (result.sizes() != shape(group_.rank(), micro_batch) || result.scalar_type() != expected.dtype ||
      result.requires_grad() != expected.requires_grad)
    throw UsageError(fmt::format(
        "BlockPipeline: stage {} gave {}{} {} where a pass of the same inputs gave {}{} {}; blocks whose "
        "results depend on more than the shapes cannot be spread over ranks",
        group_.rank(), c10::toString(result.scalar_type()), result.sizes(), gradient(result.requires_grad()),
        c10::toString(expected.dtype), shape(group_.rank(), micro_batch), gradient(expected.requires_grad)));
  if (!is_last()) activations_[micro_batch] = result.detach();
}

void StageRunner::backward(int64_t micro_batch) {
  auto gradient = compute(work_.backward, true, micro_batch,
                          next_gives_gradients() ? next_.take(micro_batch) : at::Tensor());
  if (!previous_wants_gradients()) return;
  if (!gradient.defined())
    gradient = at::zeros(shape(group_.rank() - 1, micro_batch),
                         at::TensorOptions(boundaries_[group_.rank() - 1].dtype).device(device_));
  gradients_[micro_batch] = std::move(gradient);
}

at::Tensor StageRunner::compute(const StageWork::Compute& work, bool is_backward, int64_t micro_batch,
                                at::Tensor given) {
  auto begin = now();
  auto result = work(micro_batch, std::move(given));
  trace_.push_back({group_.rank(), is_backward, micro_batch, begin, now()});
  return result;
}

void StageRunner::post(Link& link, at::Tensor send, int64_t receives, int boundary) {
  NoInterceptGuard no_intercept;
  std::vector<Send> sends;
  std::vector<Receive> wanted;
  if (send.defined()) sends.push_back({std::move(send), link.peer});
  if (receives >= 0)
    wanted.push_back({shape(boundary, receives),
                      at::TensorOptions(boundaries_[boundary].dtype).device(device_), link.peer});
  if (sends.empty() && wanted.empty()) return;
  // A sent tensor stays in memory until the send is complete, so keep only one in flight.
  while (link.posted.size() > 1 && link.posted.front().receives < 0) link.finish_first();
  link.posted.push_back({group_.exchange(std::move(sends), std::move(wanted)), receives});
}

std::vector<int64_t> StageRunner::shape(int boundary, int64_t micro_batch) const {
  auto shape = boundaries_[boundary].shape;
  if (sizes_.size() > 1 && !shape.empty()) shape[0] = sizes_[micro_batch];
  return shape;
}

}  // namespace wanpar
