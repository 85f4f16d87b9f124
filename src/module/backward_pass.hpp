#pragma once
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <functional>
#include <utility>

namespace wanpar {

/// Tells when a backward begins and ends, from hooks that run inside of it.
class BackwardPass {
 public:
  static bool is_running() { return torch::autograd::get_current_graph_task_id() >= 0; }

  /// To be called from a hook: true for the first call in each backward, at whose end `at_end` is called.
  bool begin(std::function<void()> at_end) {
    int now = torch::autograd::get_current_graph_task_id();
    if (std::exchange(id_, now) == now) return false;
    torch::autograd::Engine::get_default_engine().queue_callback(std::move(at_end));
    return true;
  }

 private:
  int id_ = -1;
};

}  // namespace wanpar
