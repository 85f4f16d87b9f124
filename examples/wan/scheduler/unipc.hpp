#pragma once
#include "wan/scheduler/flow_scheduler.hpp"

namespace wan {

/// UniPC (arXiv:2302.04867) of order 2 with B(h) = e^h - 1, predicting data. Each step first corrects the
/// sample with the velocity found there, then predicts the next; the first and the last step are of order 1.
class UniPC : public FlowScheduler {
 public:
  using FlowScheduler::FlowScheduler;

 protected:
  at::Tensor advance(int64_t i, const at::Tensor& velocity, const at::Tensor& sample) override;

 private:
  /// Leads a sample from sigma(i) to sigma(i + 1), as the data estimates there and one step earlier say.
  at::Tensor predicted(int64_t i, const at::Tensor& sample) const;

  /// The same with the data estimate at sigma(i + 1) as well.
  at::Tensor corrected(int64_t i, const at::Tensor& sample, const at::Tensor& arrived) const;

  /// The sample at sigma(i + 1) if the data were `target` all the way.
  at::Tensor lead(int64_t i, const at::Tensor& sample, const at::Tensor& target) const;

  int64_t order(int64_t i) const { return i == 0 || i + 1 == steps() ? 1 : 2; }
  double step_length(int64_t i) const { return log_snr(sigma(i + 1)) - log_snr(sigma(i)); }

  at::Tensor data_, previous_;  // data estimates of the last step and the one before
  at::Tensor start_;            // the sample that the last step started from, corrected
};

}  // namespace wan
