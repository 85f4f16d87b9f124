#pragma once
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// On the stack of handlers during a forward whose gradients somebody reduces, each as it becomes ready. Code
/// that goes backward several times for one forward, as micro-batches do, defers that: they are reduced at
/// the end.
class GradientReduction : public virtual Handler {
 public:
  void defer() { is_deferred_ = true; }
  bool is_deferred() const { return is_deferred_; }

 private:
  bool is_deferred_ = false;
};

}  // namespace wanpar
