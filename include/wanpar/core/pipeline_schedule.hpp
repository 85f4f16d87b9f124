#pragma once
#include <cstdint>
#include <vector>

//  What each stage of a pipeline does, in which order. Forwards are numbered, backwards primed; 4 stages, 4
//  micro-batches, a backward drawn as long as a forward:
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

/// One thing that a stage does. An exchange with a neighbour sends and receives as one group: with the next
/// stage an activation for a gradient, with the previous one a gradient for an activation.
struct PipelineStep {
  enum class Kind { forward, backward, with_previous, with_next };
  static constexpr int64_t kNone = -1;

  Kind kind;
  int64_t micro_batch = kNone;            ///< of a forward or backward
  int64_t send = kNone, receive = kNone;  ///< of an exchange: micro-batches, or none
  bool operator==(const PipelineStep&) const = default;
};

using PipelineSteps = std::vector<PipelineStep>;

/// The forwards of one stage. With `ahead`, the next input is asked for before this one is worked on, so that
/// it travels meanwhile; without, just before it is needed, which is better where a call waits until its
/// peer has begun it too.
PipelineSteps fill_and_drain(int64_t stage, int64_t stages, int64_t micro_batches, bool ahead = false);

/// The backwards that follow, from the last stage to the first.
PipelineSteps drain_back(int64_t stage, int64_t stages, int64_t micro_batches);

/// Forwards and backwards of one stage, taken in turn as soon as the last stage has given the first gradient.
PipelineSteps one_forward_one_backward(int64_t stage, int64_t stages, int64_t micro_batches);

/// A forward or backward as it was carried out, in seconds of one clock.
struct PipelineEvent {
  int64_t stage;
  bool is_backward;
  int64_t micro_batch;
  double begin, end;
};

/// When the events of each stage, in their recorded order, would happen if each took the time given and
/// transfers none: an event waits for the one before it on its stage, a forward for that of the previous
/// stage, a backward for that of the next. Throws Error when they wait for each other.
std::vector<PipelineEvent> with_unit_costs(const std::vector<std::vector<PipelineEvent>>& by_stage,
                                           double forward = 1, double backward = 1);

/// The share of stages × duration in which a stage is idle.
double bubble(const std::vector<PipelineEvent>& events);

}  // namespace wanpar
