#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/pipeline_schedule.hpp>

#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "strategy/block_pipeline/pipeline_boundary.hpp"

namespace wanpar {

/// The computations of a stage. Their input is undefined if there is no neighbour, or no gradient; an
/// undefined gradient as output means zeros. A received activation is a leaf, which requires a gradient if
/// one is sent back.
struct StageWork {
  using Compute = std::function<at::Tensor(int64_t micro_batch, at::Tensor received)>;
  Compute forward;                         ///< from the received activation to the one to send
  Compute backward = {};                   ///< from the gradient of forward's output to that of its input
  std::function<bool()> has_written = {};  ///< whether forward has written in place to this rank's input
};

/// Executes the schedule of one stage, overlapping computation with communication to its neighbours.
class StageRunner {
 public:
  /// `sizes` are the numbers of samples of the micro-batches; activations are received on `device`.
  StageRunner(Communicator group, at::Device device, std::vector<int64_t> sizes, StageWork work,
              std::vector<PipelineEvent>& trace);

  /// Collective. Passes the first micro-batch through the stages, and broadcasts the boundary after each. A
  /// failure on one stage is thrown on every rank. `is_batched` tells whether dimension 0 of a stage's output
  /// must be the batch.
  Boundaries learn(const std::function<bool(int stage)>& is_batched);

  /// Collective. Executes the steps, without forwards that learn() has done already.
  void run(const PipelineSteps& steps, const Boundaries& boundaries);

 private:
  /// The exchanges with one neighbour, in the order in which they were started.
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
  /// Whether gradients are exchanged with the next stage, and with the previous one.
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
