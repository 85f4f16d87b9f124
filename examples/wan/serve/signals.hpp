#pragma once
#include <csignal>
#include <functional>
#include <thread>

namespace wan::serve {

/// SIGINT, SIGTERM and SIGHUP, from now on, on a thread that waits for them: no handler interrupts anything.
/// To be made before other threads are.
class Signals {
 public:
  /// `first` is called for the first signal, `again` for each that follows, and where the process is still
  /// there after nine seconds: launchers wait for ten.
  Signals(std::function<void(int)> first, std::function<void(int)> again);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  sigset_t signals_, before_;
  std::jthread thread_;
};

/// Ends this process as the signal would have done without anybody who waits for it.
[[noreturn]] void end_by(int signal);

}  // namespace wan::serve
