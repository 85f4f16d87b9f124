#pragma once
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// Is told what a strategy inside of it puts in the place of a tensor where a part of the module begins or
/// ends: an argument cut, a result gathered.
class CrossingHandler : public virtual Handler {
 public:
  virtual void on_crossing(const at::Tensor& original, const at::Tensor& replacement) = 0;
};

/// Keeps tensors for as long as other ones are put in their places, and then tells; keeps nothing where
/// nobody is to be told.
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
