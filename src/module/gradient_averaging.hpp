#pragma once
#include <utility>

namespace wanpar {

/// While it lives, somebody averages the gradients of the forward at hand, each as it comes. What goes
/// backward in several parts, as micro-batches do, says so: then they are averaged at the end.
class GradientAveraging {
 public:
  GradientAveraging() : outer_(std::exchange(innermost_, this)) {}
  ~GradientAveraging() { innermost_ = outer_; }
  GradientAveraging(const GradientAveraging&) = delete;
  GradientAveraging& operator=(const GradientAveraging&) = delete;

  static bool is_wanted() { return innermost_ != nullptr; }
  static void come_in_parts() {
    for (auto* one = innermost_; one; one = one->outer_) one->in_parts_ = true;
  }
  bool in_parts() const { return in_parts_; }

 private:
  GradientAveraging* outer_;
  bool in_parts_ = false;
  inline static thread_local GradientAveraging* innermost_ = nullptr;
};

}  // namespace wanpar
