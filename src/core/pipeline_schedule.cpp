#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <wanpar/core/error.hpp>
#include <wanpar/core/pipeline_schedule.hpp>

namespace wanpar {
namespace {

using Kind = PipelineStep::Kind;
constexpr auto kNone = PipelineStep::kNone;

/// Records the steps of one stage; drops exchanges without a neighbour.
class Script {
 public:
  Script(int64_t stage, int64_t stages) : is_first_(stage == 0), is_last_(stage == stages - 1) {}

  void forward(int64_t m) { steps_.push_back({Kind::forward, m}); }
  void backward(int64_t m) { steps_.push_back({Kind::backward, m}); }
  void with_next(int64_t send, int64_t receive) {
    if (!is_last_) steps_.push_back({Kind::with_next, kNone, send, receive});
  }
  void with_previous(int64_t send, int64_t receive) {
    if (!is_first_) steps_.push_back({Kind::with_previous, kNone, send, receive});
  }
  PipelineSteps take() { return std::move(steps_); }

 private:
  bool is_first_, is_last_;
  PipelineSteps steps_;
};

}  // namespace

PipelineSteps fill_and_drain(int64_t stage, int64_t stages, int64_t micro_batches, bool ahead) {
  Script script(stage, stages);
  if (ahead) script.with_previous(kNone, 0);
  for (int64_t m = 0; m < micro_batches; ++m) {
    auto wanted = ahead ? m + 1 : m;
    if (wanted < micro_batches) script.with_previous(kNone, wanted);
    script.forward(m);
    script.with_next(m, kNone);
  }
  return script.take();
}

PipelineSteps drain_back(int64_t stage, int64_t stages, int64_t micro_batches) {
  Script script(stage, stages);
  for (int64_t m = 0; m < micro_batches; ++m) {
    script.with_next(kNone, m);
    script.backward(m);
    script.with_previous(m, kNone);
  }
  return script.take();
}

PipelineSteps one_forward_one_backward(int64_t stage, int64_t stages, int64_t micro_batches) {
  // Both ends of a link have the same order of exchanges: single activations to fill the pipeline, then pairs
  // of activation and gradient, then the remaining gradients.
  auto warm_up = std::min(stages - 1 - stage, micro_batches), steady = micro_batches - warm_up;
  Script script(stage, stages);
  for (int64_t m = 0; m < warm_up; ++m) {
    script.with_previous(kNone, m);
    script.forward(m);
    script.with_next(m, kNone);
  }
  if (steady > 0) script.with_previous(kNone, warm_up);
  for (int64_t m = 0; m < steady; ++m) {
    script.forward(warm_up + m);
    script.with_next(warm_up + m, m);
    script.backward(m);
    script.with_previous(m, m + 1 < steady ? warm_up + m + 1 : kNone);
  }
  for (int64_t m = steady; m < micro_batches; ++m) {
    script.with_next(kNone, m);
    script.backward(m);
    script.with_previous(m, kNone);
  }
  return script.take();
}

std::vector<PipelineEvent> with_unit_costs(const std::vector<std::vector<PipelineEvent>>& by_stage,
                                           double forward, double backward) {
  using Key = std::tuple<int64_t, bool, int64_t>;  // stage, is backward, micro-batch
  std::set<Key> expected;
  for (auto& events : by_stage)
    for (auto& e : events) expected.insert({e.stage, e.is_backward, e.micro_batch});

  std::map<Key, double> ended;
  std::vector<size_t> next(by_stage.size(), 0);
  std::vector<double> free_from(by_stage.size(), 0);
  std::vector<PipelineEvent> timed;
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t stage = 0; stage < by_stage.size(); ++stage)
      while (next[stage] < by_stage[stage].size()) {
        auto event = by_stage[stage][next[stage]];
        Key source{event.stage + (event.is_backward ? 1 : -1), event.is_backward, event.micro_batch};
        if (expected.contains(source) && !ended.contains(source)) break;
        event.begin = std::max(free_from[stage], expected.contains(source) ? ended[source] : 0);
        event.end = event.begin + (event.is_backward ? backward : forward);
        free_from[stage] = event.end;
        ended[{event.stage, event.is_backward, event.micro_batch}] = event.end;
        timed.push_back(event);
        ++next[stage], moved = true;
      }
  }
  if (timed.size() != expected.size())
    throw UsageError("with_unit_costs: the stages wait for each other, or an event stands there twice");
  return timed;
}

double bubble(const std::vector<PipelineEvent>& events) {
  if (events.empty()) return 0;
  std::set<int64_t> stages;
  double begin = events[0].begin, end = events[0].end, busy = 0;
  for (auto& event : events) {
    stages.insert(event.stage);
    begin = std::min(begin, event.begin), end = std::max(end, event.end);
    busy += event.end - event.begin;
  }
  return 1 - busy / (static_cast<double>(stages.size()) * (end - begin));
}

}  // namespace wanpar
