#pragma once
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <chrono>
#include <deque>
#include <vector>

namespace wanpar {

/// How long each of several things took in all, on the CPU by its clock, elsewhere by events in the stream.
class Stopwatch {
 public:
  /// Forgets all times; from now on there are `things`.
  void reset(size_t things);
  void start(at::Device device);
  void stop(size_t thing);
  /// Blocks until the device has done what was measured.
  std::vector<double> seconds();

 private:
  struct Lap {
    size_t thing;
    c10::Event begin, end;
  };
  void record(c10::Event& event) const;

  at::Device device_{at::kCPU};
  std::chrono::steady_clock::time_point begin_;
  std::deque<c10::Event> begun_;
  std::deque<Lap> laps_;
  std::vector<double> seconds_;
};

}  // namespace wanpar
