#pragma once
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <functional>
#include <utility>
#include <vector>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

class ReentrantBackward;

/// Tells when a backward begins and ends, from hooks that run inside of it.
class BackwardPass {
 public:
  static bool is_running() { return current() >= 0; }

  /// To be called from a hook: true for the first call in each backward, at whose end `at_end` is called.
  bool begin_once(std::function<void()> end) {
    int now = current();
    if (std::exchange(id_, now) == now) return false;
    at_end(std::move(end));
    return true;
  }
  /// Another number for each backward.
  int id() const { return id_; }

 private:
  friend ReentrantBackward;
  static int task() { return torch::autograd::get_current_graph_task_id(); }
  static int current();
  static void at_end(std::function<void()> end);

  int id_ = -1;
};

/// On the stack of handlers while a node of a backward calls another one, which is a part of that one.
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
