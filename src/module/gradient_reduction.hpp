#pragma once
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// Marks that an enclosing DataParallel reduces gradients as they become ready. Code that runs several
/// backward passes per forward (micro-batching) calls defer(), so that they are reduced once at the end.
class GradientReduction : public virtual Handler {
 public:
  void defer() { is_deferred_ = true; }
  bool is_deferred() const { return is_deferred_; }

 private:
  bool is_deferred_ = false;
};

}  // namespace wanpar
