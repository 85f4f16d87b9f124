#pragma once
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <chrono>
#include <deque>
#include <vector>

namespace wanpar {

/// The total time of each of several blocks: by the host's clock on the CPU, by events in the stream
/// elsewhere.
class Stopwatch {
 public:
  /// Clears all times; from now on there are `things` blocks.
  void reset(size_t things);
  void start(at::Device device);
  void stop(size_t thing);
  /// Blocks until the device has reached the last event.
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
