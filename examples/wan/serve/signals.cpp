#include "wan/serve/signals.hpp"

#include <pthread.h>

#include <chrono>
#include <cstdlib>

namespace wan::serve {
namespace {

constexpr std::chrono::seconds kUntilAgain{9};

}  // namespace

Signals::Signals(std::function<void(int)> first, std::function<void(int)> again) {
  sigemptyset(&signals_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now {};
    sigaction(signal, nullptr, &now);
    if (now.sa_handler != SIG_IGN) sigaddset(&signals_, signal);
  }
  pthread_sigmask(SIG_BLOCK, &signals_, &before_);
  thread_ =
      std::jthread([this, first = std::move(first), again = std::move(again)](const std::stop_token& stop) {
        int came = 0;
        std::chrono::steady_clock::time_point limit;
        while (!stop.stop_requested()) {
          const timespec while_nothing_comes{0, 200'000'000};
          const int signal = sigtimedwait(&signals_, nullptr, &while_nothing_comes);
          if (came != 0 && (signal > 0 || std::chrono::steady_clock::now() > limit)) again(came);
          if (signal <= 0) continue;
          came = signal;
          limit = std::chrono::steady_clock::now() + kUntilAgain;
          first(signal);
        }
      });
}

Signals::~Signals() {
  thread_.request_stop();
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void end_by(int signal) {
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
  raise(signal);  // a handler that there is removes files that are not whole
  std::_Exit(128 + signal);
}

}  // namespace wan::serve
