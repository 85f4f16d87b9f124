#pragma once
#include <csignal>
#include <functional>
#include <thread>

namespace wan::serve {

/// Handles SIGINT, SIGTERM and SIGHUP on a thread that waits for them, so that no handler interrupts
/// anything. Construct before other threads are started.
class Signals {
 public:
  /// `first` is called for the first signal, `again` for each further one, and if the process is still
  /// running after nine seconds: launchers wait for ten.
  Signals(std::function<void(int)> first, std::function<void(int)> again);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  sigset_t signals_, before_;
  std::jthread thread_;
};

/// Ends this process as the signal's default action would, without waiting for anything.
[[noreturn]] void end_by(int signal);

}  // namespace wan::serve
