#pragma once
#include <cstdint>
#include <vector>

//  Pipeline schedules: the steps of each stage, in order. Forwards are numbered, backwards primed; 4 stages,
//  4 micro-batches, a backward drawn as long as a forward:
//
//     fill and drain                     one forward, one backward (1F1B)
//     stage 0   0 1 2 3                  stage 0   0 1 2 3 . . . 0'. 1'. 2'. 3'
//     stage 1     0 1 2 3                stage 1     0 1 2 . . 0'3 1'. 2'. 3'
//     stage 2       0 1 2 3              stage 2       0 1 . 0'2 1'3 2'. 3'
//     stage 3         0 1 2 3            stage 3         0 0'1 1'2 2'3 3'
//
//  Both leave (stages − 1) / (micro-batches + stages − 1) of the time idle. 1F1B keeps the activations of at
//  most `stages − stage` micro-batches at a stage, whatever their number.
namespace wanpar {

/// One step of a stage. An exchange with a neighbour sends and receives as one group: an activation against a
/// gradient with the next stage, a gradient against an activation with the previous one.
struct PipelineStep {
  enum class Kind { forward, backward, with_previous, with_next };
  static constexpr int64_t kNone = -1;

  Kind kind;
  int64_t micro_batch = kNone;            ///< of a forward or backward
  int64_t send = kNone, receive = kNone;  ///< of an exchange: micro-batches, or none
  bool operator==(const PipelineStep&) const = default;
};

using PipelineSteps = std::vector<PipelineStep>;

/// The forwards of one stage (GPipe). With `ahead`, the next input is received while the current one is
/// computed; without, just before it is needed, which is better if a transfer blocks until the peer has
/// started it too.
PipelineSteps fill_and_drain(int64_t stage, int64_t stages, int64_t micro_batches, bool ahead = false);

/// The backwards that follow, starting at the last stage.
PipelineSteps drain_back(int64_t stage, int64_t stages, int64_t micro_batches);

/// Forwards and backwards of one stage, alternating once the first gradient has arrived (1F1B).
PipelineSteps one_forward_one_backward(int64_t stage, int64_t stages, int64_t micro_batches);

/// A forward or backward as it was executed; times in seconds of one clock.
struct PipelineEvent {
  int64_t stage;
  bool is_backward;
  int64_t micro_batch;
  double begin, end;
};

/// Replays the recorded events with fixed costs and free transfers: an event waits for the one before it on
/// its stage, a forward also for that of the previous stage, a backward for that of the next stage. Throws
/// Error if they deadlock.
std::vector<PipelineEvent> with_unit_costs(const std::vector<std::vector<PipelineEvent>>& by_stage,
                                           double forward = 1, double backward = 1);

/// The bubble: idle time as a fraction of stages × duration.
double bubble(const std::vector<PipelineEvent>& events);

}  // namespace wanpar
