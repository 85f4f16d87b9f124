#pragma once
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <functional>
#include <utility>
#include <vector>

namespace wanpar {

/// Tells when a backward begins and ends, from hooks that run inside of it.
class BackwardPass {
 public:
  /// While it lives, a backward that a node of another one calls is a part of that one.
  class Inner {
   public:
    Inner() : outer_(std::exchange(innermost_, this)), id_(outer_ ? outer_->id_ : task()) {}
    ~Inner() {
      innermost_ = outer_;
      for (auto& end : at_end_) BackwardPass::at_end(std::move(end));
    }
    Inner(const Inner&) = delete;
    Inner& operator=(const Inner&) = delete;

   private:
    friend BackwardPass;
    Inner* outer_;
    int id_;
    std::vector<std::function<void()>> at_end_;
  };

  static bool is_running() { return current() >= 0; }

  /// To be called from a hook: true for the first call in each backward, at whose end `at_end` is called.
  bool begin(std::function<void()> end) {
    int now = current();
    if (std::exchange(id_, now) == now) return false;
    at_end(std::move(end));
    return true;
  }

 private:
  static int task() { return torch::autograd::get_current_graph_task_id(); }
  static int current() { return innermost_ ? innermost_->id_ : task(); }
  static void at_end(std::function<void()> end) {
    if (innermost_)
      innermost_->at_end_.push_back(std::move(end));
    else
      torch::autograd::Engine::get_default_engine().queue_callback(std::move(end));
  }

  inline static thread_local Inner* innermost_ = nullptr;
  int id_ = -1;
};

}  // namespace wanpar
