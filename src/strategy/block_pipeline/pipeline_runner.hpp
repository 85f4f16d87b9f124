#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/pipeline_schedule.hpp>

#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "strategy/block_pipeline/pipeline_boundary.hpp"

namespace wanpar {

/// What a stage computes. What it is given is undefined where there is no neighbour, or no gradient; an
/// undefined gradient it gives means zeros. An activation whose gradient is wanted is a leaf that requires
/// it.
struct StageWork {
  using Compute = std::function<at::Tensor(int64_t micro_batch, at::Tensor received)>;
  Compute forward;        ///< from an activation to the next one
  Compute backward = {};  ///< from the gradient of what forward gave to that of what it was given
  std::function<bool()> has_written = {};  ///< whether forward has written to what is given on this rank
};

/// Carries out the steps of one stage: computes, and exchanges with its neighbours while it does.
class StageRunner {
 public:
  /// `sizes` are the samples of each micro-batch; what comes lies on `device`.
  StageRunner(Communicator group, at::Device device, std::vector<int64_t> sizes, StageWork work,
              std::vector<PipelineEvent>& trace);

  /// Collective. The first micro-batch passes the stages one after the other, and all ranks learn what each
  /// gives. What fails on one stage is thrown on every rank. `is_batched` says whether dimension 0 of what a
  /// stage gives must be the samples.
  Boundaries learn(const std::function<bool(int stage)>& is_batched);

  /// Collective. The steps; forwards that `learn` has done already are left out.
  void run(const PipelineSteps& steps, const Boundaries& boundaries);

 private:
  /// Exchanges with one neighbour, in the order of their beginning.
  struct Link {
    struct Posted {
      Pending<std::vector<at::Tensor>> exchange;
      int64_t receives;
    };
    int peer;
    std::deque<Posted> posted = {};
    std::map<int64_t, at::Tensor> arrived = {};

    void finish_first();
    at::Tensor take(int64_t micro_batch);
  };

  bool is_first() const { return group_.rank() == 0; }
  bool is_last() const { return group_.rank() == group_.size() - 1; }
  bool is_done(const PipelineStep& step) const;
  /// Whether gradients pass between this stage and the next, the previous one.
  bool next_gives_gradients() const { return !is_last() && boundaries_[group_.rank()].requires_grad; }
  bool previous_wants_gradients() const {
    return !is_first() && boundaries_[group_.rank() - 1].requires_grad;
  }

  Boundary first_forward(bool is_batched);
  at::Tensor take_activation(int64_t micro_batch);
  void forward(int64_t micro_batch);
  void backward(int64_t micro_batch);
  void post(Link& link, at::Tensor send, int64_t receives, int boundary);
  at::Tensor compute(const StageWork::Compute& work, bool is_backward, int64_t micro_batch, at::Tensor given);
  std::vector<int64_t> shape(int boundary, int64_t micro_batch) const;

  Communicator group_;
  at::Device device_;
  std::vector<int64_t> sizes_;
  StageWork work_;
  std::vector<PipelineEvent>& trace_;
  Boundaries boundaries_;
  bool first_is_done_ = false;
  Link previous_, next_;
  std::map<int64_t, at::Tensor> activations_, gradients_;  // to be sent, by micro-batch
};

}  // namespace wanpar
