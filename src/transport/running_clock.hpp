#pragma once
#include <algorithm>
#include <chrono>

namespace wanpar {

/// For how long a thread has run. While it is held up, alone or with its whole machine, hardly any time
/// passes here: it blames nobody for a silence that it has slept through.
class RunningClock {
 public:
  using Milliseconds = std::chrono::milliseconds;

  /// To be called more often than every `longest`.
  explicit RunningClock(Milliseconds longest) : longest_(longest) {}

  Milliseconds now() const { return now_; }
  void pass() {
    const auto real = Clock::now();
    const auto passed = std::chrono::duration_cast<Milliseconds>(real - real_);
    now_ += std::min(passed, longest_);
    real_ += passed;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Milliseconds longest_, now_{0};
  Clock::time_point real_ = Clock::now();
};

}  // namespace wanpar
