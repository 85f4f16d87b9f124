#pragma once
#include <algorithm>
#include <chrono>

namespace wanpar {

/// The time for which a thread has run. While it is suspended, alone or with its machine, this clock hardly
/// advances: so the thread accuses no other rank of a silence during its own suspension.
class RunningClock {
 public:
  using Milliseconds = std::chrono::milliseconds;

  /// pass() must be called more often than every `longest`.
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
