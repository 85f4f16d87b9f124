#pragma once
#include <wanpar/core/communicator.hpp>

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace wan::serve {

/// What a rank sends to the others with each beat.
struct Beat {
  static constexpr size_t kNumbers = 5;

  int64_t signal = 0;  ///< received by this process, and ends all ranks
  int64_t is_over = 0;
  int64_t memory_bytes = 0, memory_peak_bytes = 0;
  int64_t step_microseconds = 0;
};

/// The server's heartbeat, next to the library's own: ranks that are processes exchange signals, memory and
/// step times by an all-gather twice a second, whatever else they do. It fails when a rank was killed or is
/// stopped, also while all wait for work.
class Heartbeat {
 public:
  struct Listener {
    std::function<Beat()> mine;                             ///< called before each beat
    std::function<void(const std::vector<Beat>&)> heard;    ///< called with the beats of all ranks
    std::function<void(const std::string& sentence)> lost;  ///< called if a rank is lost; `sentence` names it
  };

  /// `group` is used by nothing else.
  Heartbeat(wanpar::Communicator group, Listener listener);
  /// Waits for the beat with which rank 0 ends all.
  ~Heartbeat();

 private:
  void beat();

  wanpar::Communicator group_;
  Listener listener_;
  std::jthread thread_;
};

}  // namespace wan::serve
