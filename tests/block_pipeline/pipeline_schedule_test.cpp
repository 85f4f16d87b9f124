#include <doctest/doctest.h>
#include <wanpar/core/error.hpp>
#include <wanpar/core/pipeline_schedule.hpp>

#include <algorithm>
#include <functional>
#include <set>

using wanpar::PipelineEvent;
using wanpar::PipelineStep;
using wanpar::PipelineSteps;
using Kind = PipelineStep::Kind;

namespace pipeline_schedule_test {
namespace {

using Schedule = std::function<PipelineSteps(int64_t stage, int64_t stages, int64_t micro_batches)>;

PipelineSteps ahead(int64_t stage, int64_t stages, int64_t micro_batches) {
  return wanpar::fill_and_drain(stage, stages, micro_batches, true);
}
PipelineSteps just_in_time(int64_t stage, int64_t stages, int64_t micro_batches) {
  return wanpar::fill_and_drain(stage, stages, micro_batches, false);
}

/// Runs the steps of all stages where an exchange begins only when both sides have come to it, which is the
/// hardest that a transport can be: true when every stage comes to its end, and both sides of each exchange
/// meant the same, and nothing was used that had not come.
bool can_meet(const Schedule& schedule, int64_t stages, int64_t micro_batches) {
  std::vector<PipelineSteps> steps;
  for (int64_t s = 0; s < stages; ++s) steps.push_back(schedule(s, stages, micro_batches));
  std::vector<size_t> at(stages, 0);
  std::vector<std::set<int64_t>> activations(stages), gradients(stages), forwarded(stages),
      backwarded(stages);
  for (bool moved = true; moved;) {
    moved = false;
    for (int64_t s = 0; s < stages; ++s) {
      if (at[s] == steps[s].size()) continue;
      auto& step = steps[s][at[s]];
      if (step.kind == Kind::forward) {
        if (s > 0 && !activations[s].contains(step.micro_batch)) return false;
        forwarded[s].insert(step.micro_batch);
      } else if (step.kind == Kind::backward) {
        if (s + 1 < stages && !gradients[s].contains(step.micro_batch)) return false;
        backwarded[s].insert(step.micro_batch);
      } else if (step.kind == Kind::with_next) {
        if (at[s + 1] == steps[s + 1].size()) return false;
        auto& other = steps[s + 1][at[s + 1]];
        if (other.kind != Kind::with_previous) continue;  // not there yet
        if (other.receive != step.send || other.send != step.receive) return false;
        if (step.send >= 0 && !forwarded[s].contains(step.send)) return false;
        if (other.send >= 0 && !backwarded[s + 1].contains(other.send)) return false;
        if (step.send >= 0) activations[s + 1].insert(step.send);
        if (step.receive >= 0) gradients[s].insert(step.receive);
        ++at[s + 1];
      } else {
        continue;  // the previous stage begins it
      }
      ++at[s], moved = true;
    }
  }
  for (int64_t s = 0; s < stages; ++s)
    if (at[s] != steps[s].size()) return false;
  return true;
}

/// The forwards and backwards alone, as they would be recorded.
std::vector<std::vector<PipelineEvent>> events(const Schedule& schedule, int64_t stages,
                                               int64_t micro_batches) {
  std::vector<std::vector<PipelineEvent>> all(stages);
  for (int64_t s = 0; s < stages; ++s)
    for (auto& step : schedule(s, stages, micro_batches))
      if (step.micro_batch >= 0) all[s].push_back({s, step.kind == Kind::backward, step.micro_batch, 0, 0});
  return all;
}

}  // namespace

TEST_CASE("no schedule deadlocks, whatever the number of stages and micro-batches") {
  for (int64_t stages = 1; stages <= 9; ++stages)
    for (int64_t micro_batches = 1; micro_batches <= 12; ++micro_batches) {
      INFO(stages, " stages, ", micro_batches, " micro-batches");
      CHECK(can_meet(ahead, stages, micro_batches));
      CHECK(can_meet(just_in_time, stages, micro_batches));
      CHECK(can_meet(wanpar::one_forward_one_backward, stages, micro_batches));
    }
}

TEST_CASE("each stage does each micro-batch once, in order") {
  for (int64_t stages = 1; stages <= 5; ++stages)
    for (int64_t micro_batches = 1; micro_batches <= 7; ++micro_batches)
      for (auto& stage : events(wanpar::one_forward_one_backward, stages, micro_batches)) {
        for (bool backward : {false, true}) {
          std::vector<int64_t> order;
          for (auto& event : stage)
            if (event.is_backward == backward) order.push_back(event.micro_batch);
          CHECK(static_cast<int64_t>(order.size()) == micro_batches);
          CHECK(std::is_sorted(order.begin(), order.end()));
        }
      }
}

TEST_CASE("4 stages and 8 micro-batches are idle for 3/11 of the time") {
  auto expected = 3.0 / 11.0;
  CHECK(wanpar::bubble(wanpar::with_unit_costs(events(just_in_time, 4, 8))) == doctest::Approx(expected));
  auto training = events(wanpar::one_forward_one_backward, 4, 8);
  CHECK(wanpar::bubble(wanpar::with_unit_costs(training)) == doctest::Approx(expected));
  CHECK(wanpar::bubble(wanpar::with_unit_costs(training, 1, 2)) == doctest::Approx(expected));
  CHECK(wanpar::bubble(wanpar::with_unit_costs(events(just_in_time, 4, 1))) == doctest::Approx(0.75));
  CHECK(wanpar::bubble(wanpar::with_unit_costs(events(just_in_time, 1, 3))) == doctest::Approx(0));
}

TEST_CASE("1F1B keeps no more micro-batches alive than there are stages to come") {
  for (int64_t stage = 0; stage < 4; ++stage) {
    int64_t alive = 0, most = 0;
    for (auto& step : wanpar::one_forward_one_backward(stage, 4, 16)) {
      alive += step.kind == Kind::forward ? 1 : step.kind == Kind::backward ? -1 : 0;
      most = std::max(most, alive);
    }
    CHECK(most == 4 - stage);
  }
}

TEST_CASE("events that wait for each other have no times") {
  auto one = [](int64_t stage, int64_t m) { return PipelineEvent{stage, false, m, 0, 0}; };
  CHECK_THROWS_AS(wanpar::with_unit_costs({{one(0, 0), one(0, 1)}, {one(1, 1), one(1, 1)}}), wanpar::Error);
}

}  // namespace pipeline_schedule_test
