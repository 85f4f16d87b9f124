#pragma once
#include <wanpar/core/communicator.hpp>

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace wan::serve {

/// What a rank tells the others with each beat.
struct Beat {
  static constexpr size_t kNumbers = 5;

  int64_t signal = 0;  ///< one that this process was sent, which is to end them all
  int64_t is_over = 0;
  int64_t memory_bytes = 0, memory_peak_bytes = 0;
  int64_t step_microseconds = 0;
};

/// Ranks that are processes hear of each other twice a second, whatever they do otherwise: one that was
/// killed or stopped is noticed in any case, while all wait for work, too.
class Heartbeat {
 public:
  struct Listener {
    std::function<Beat()> mine;                             ///< asked for before each beat
    std::function<void(const std::vector<Beat>&)> heard;    ///< those of all ranks
    std::function<void(const std::string& sentence)> lost;  ///< the sentence names the rank
  };

  /// `group` is the heart's own.
  Heartbeat(wanpar::Communicator group, Listener listener);
  /// Waits for the beat in which rank 0 says that it is over.
  ~Heartbeat();

 private:
  void beat();

  wanpar::Communicator group_;
  Listener listener_;
  std::jthread thread_;
};

}  // namespace wan::serve
