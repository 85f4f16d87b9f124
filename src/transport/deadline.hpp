#pragma once
#include <algorithm>
#include <chrono>

namespace wanpar {

/// The end of a wait that starts with the construction.
class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds timeout) : end_(Clock::now() + timeout) {}

  bool is_over() const { return Clock::now() >= end_; }
  /// The remaining time, but at least `least`: enough for an operation that takes no time, if it can be done
  /// at all.
  std::chrono::milliseconds left(std::chrono::milliseconds least = std::chrono::milliseconds(0)) const {
    return std::max(least, std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()));
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point end_;
};

inline double seconds(std::chrono::milliseconds time) { return std::chrono::duration<double>(time).count(); }

}  // namespace wanpar
