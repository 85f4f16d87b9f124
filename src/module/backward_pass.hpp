#pragma once
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <functional>
#include <utility>
#include <vector>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

class ReentrantBackward;

/// Detects the first hook of a backward pass, and runs a callback at its end.
class BackwardPass {
 public:
  static bool is_running() { return current() >= 0; }

  /// Call from a hook: true for the first call in each backward, whose end will call `end`.
  bool begin_once(std::function<void()> end) {
    int now = current();
    if (std::exchange(id_, now) == now) return false;
    at_end(std::move(end));
    return true;
  }
  /// The number of the current backward, different for each.
  int id() const { return id_; }

 private:
  friend ReentrantBackward;
  static int task() { return torch::autograd::get_current_graph_task_id(); }
  static int current();
  static void at_end(std::function<void()> end);

  int id_ = -1;
};

/// RAII handler: a re-entrant backward (of a recomputation) counts as part of the enclosing backward.
class ReentrantBackward : public virtual Handler {
 public:
  ReentrantBackward() : id_(BackwardPass::current()) {}
  ~ReentrantBackward() override {
    for (auto& end : at_end_) BackwardPass::at_end(std::move(end));
  }

 private:
  friend BackwardPass;
  int id_;
  std::vector<std::function<void()>> at_end_;
};

inline int BackwardPass::current() {
  auto* inner = innermost<ReentrantBackward>();
  return inner ? inner->id_ : task();
}

inline void BackwardPass::at_end(std::function<void()> end) {
  if (auto* inner = innermost<ReentrantBackward>())
    inner->at_end_.push_back(std::move(end));
  else
    torch::autograd::Engine::get_default_engine().queue_callback(std::move(end));
}

}  // namespace wanpar
