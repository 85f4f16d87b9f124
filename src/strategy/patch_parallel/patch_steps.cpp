#include "strategy/patch_parallel/patch_steps.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

namespace wanpar {

std::optional<FromRanks> StaleBuffer::take() {
  if (coming_) here_ = std::exchange(coming_, nullptr)();
  return std::exchange(here_, std::nullopt);
}

void StaleBuffer::keep(int64_t step, FromRanks here) {
  step_ = step, bytes_ = 0;
  for (auto& x : here)
    if (x.defined()) bytes_ += static_cast<int64_t>(x.nbytes());
  here_ = std::move(here);
}

void StaleBuffer::keep(int64_t step, std::function<FromRanks()> coming, int64_t bytes) {
  step_ = step, bytes_ = bytes;
  coming_ = std::move(coming);
}

void StaleBuffer::note_change(const at::Tensor& own, const at::Tensor& before) {
  const auto now = own.to(at::kFloat), then = before.to(at::kFloat);
  staleness_ = (now - then).norm() / then.norm().clamp_min(std::numeric_limits<float>::min());
}

std::optional<double> StaleBuffer::staleness() const {
  if (!staleness_.defined()) return {};
  return staleness_.item<double>();
}

void PatchSteps::update(int64_t step) {
  if (step == 0) forget();
  schedule_.begin_step(step);
  calls_.resize(call_);  // drop calls that the previous step did not make
  call_ = 0;
}

void PatchSteps::forget() {
  schedule_.forget();
  calls_.clear();
  call_ = 0, bytes_sent_ = 0, is_running_ = false;
}

void PatchSteps::begin_call(const SplitRanks& ranks, const std::string& kind) {
  const bool is_told = schedule_.mode() != PatchMode::exact;
  if (is_told && at::GradMode::is_enabled())
    throw UsageError(
        "PatchParallel: steps have no gradients; call the module under torch::NoGradGuard or "
        "c10::InferenceMode, or without update_step, which is exact and has gradients");
  if (schedule_.mode() == PatchMode::displaced && !schedule_.is_first()) check_known(kind);
  require_same(ranks.name(), "steps", ranks.grid(),
               is_told ? fmt::format("call {} of step {}, {}", call_, step(), text_of(schedule_.mode()))
                       : "a call without update_step");
  if (!is_told) return;
  if (call_ == 0) vote(ranks);
  if (call_ == calls_.size())
    calls_.push_back({kind, {}});
  else if (calls_[call_].kind != kind)
    calls_[call_] = {kind, {}};
  next_buffer_ = 0;
  is_running_ = true;
}

void PatchSteps::check_known(const std::string& kind) const {
  const char* remedy = "begin anew by update_step(0), or by synchronize()";
  if (call_ >= calls_.size())
    throw UsageError(
        fmt::format("PatchParallel: call {} of step {}, of which the step before had {}: there is nothing to "
                    "take from them; make as many calls in each step, or {}",
                    call_, step(), calls_.size(), remedy));
  if (calls_[call_].kind != kind)
    throw UsageError(
        fmt::format("PatchParallel: call {} of step {} has arguments of other shapes or dtypes than in the "
                    "step before; {}",
                    call_, step(), remedy));
}

void PatchSteps::vote(const SplitRanks& ranks) {
  if (!max_staleness_ || schedule_.mode() != PatchMode::displaced) return;
  auto most = at::zeros({1}, at::kDouble);
  for (auto& call : calls_)
    for (auto& buffer : call.buffers)
      if (auto staleness = buffer.staleness()) most.fill_(std::max(most.item<double>(), *staleness));
  const auto device = ranks.slow().size() > 1 ? ranks.slow().device() : ranks.fast().device();
  if (ranks.greatest(most.to(device)).item<double>() > *max_staleness_) schedule_.make_synchronous();
}

void PatchSteps::end_call() {
  if (!is_running_) return;
  auto& call = calls_[call_];
  call.buffers.erase(call.buffers.begin() + static_cast<ptrdiff_t>(next_buffer_), call.buffers.end());
  ++call_;
  is_running_ = false;
}

StaleBuffer& PatchSteps::next_buffer(const std::string& what, at::IntArrayRef shape) {
  auto& buffers = calls_[call_].buffers;
  const auto at = next_buffer_++;
  const bool is_known = at < buffers.size() && buffers[at].what() == what && buffers[at].shape() == shape;
  if (is_known) return buffers[at];
  if (is_displaced() && !schedule_.is_first())
    throw UsageError(
        fmt::format("PatchParallel: the module takes another way in step {} than in the step before: its "
                    "exchange {} is of {} {}; begin anew by update_step(0), or by synchronize()",
                    step(), at, what, shape));
  buffers.erase(buffers.begin() + static_cast<ptrdiff_t>(std::min(at, buffers.size())), buffers.end());
  return buffers.emplace_back(what, shape.vec());
}

PatchStatus PatchSteps::status() const {
  PatchStatus status{text_of(schedule_.mode()), schedule_.step(), {}, bytes_sent_, 0};
  for (size_t call = 0; call < calls_.size(); ++call)
    for (size_t i = 0; i < calls_[call].buffers.size(); ++i) {
      auto& buffer = calls_[call].buffers[i];
      status.buffers.push_back({static_cast<int64_t>(call), static_cast<int64_t>(i), buffer.what(),
                                step() - buffer.step(), buffer.staleness(), buffer.bytes()});
      status.bytes_held += buffer.bytes();
    }
  return status;
}

}  // namespace wanpar
