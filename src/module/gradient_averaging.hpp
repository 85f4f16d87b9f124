#pragma once
#include <utility>

namespace wanpar {

/// While it lives, the forward at hand wants each gradient of a parameter at once and whole: what runs parts
/// of it backward one after the other must refuse.
class OneBackward {
 public:
  OneBackward() : outer_(std::exchange(is_wanted_, true)) {}
  ~OneBackward() { is_wanted_ = outer_; }
  OneBackward(const OneBackward&) = delete;
  OneBackward& operator=(const OneBackward&) = delete;

  static bool is_wanted() { return is_wanted_; }

 private:
  bool outer_;
  inline static thread_local bool is_wanted_ = false;
};

}  // namespace wanpar
