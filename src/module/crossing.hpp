#pragma once
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// Notified when an inner strategy replaces a tensor at the boundary of a wrapped submodule: a sharded
/// argument, a gathered result.
class CrossingHandler : public virtual Handler {
 public:
  virtual void on_crossing(const at::Tensor& original, const at::Tensor& replacement) = 0;
};

/// Records tensors before a strategy replaces them, and then notifies the handlers; records nothing without
/// handlers.
class Crossing {
 public:
  explicit Crossing(const NamedTensors& originals) {
    if (innermost<CrossingHandler>()) originals_ = originals;
  }
  void tell(const NamedTensors& replacements) const {
    NoInterceptGuard no_intercept;
    for (size_t i = 0; i < originals_.size(); ++i) {
      auto &now = replacements[i].tensor, &before = originals_[i].tensor;
      if (!now.defined() || now.is_same(before)) continue;
      for (auto* handler : handlers())
        if (auto* around = dynamic_cast<CrossingHandler*>(handler)) around->on_crossing(before, now);
    }
  }

 private:
  NamedTensors originals_;
};

}  // namespace wanpar
