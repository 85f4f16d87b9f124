#pragma once
#include <wanpar/core/error.hpp>

#include <chrono>
#include <functional>

namespace wanpar {

/// The heartbeats of a run.
struct Heartbeat {
  std::chrono::milliseconds period{1000};  ///< 0: no heartbeats
  /// Called once, on a separate thread, with the first ranks that are lost. Must not throw.
  std::function<void(const PeerLostError&)> on_lost = {};
};

}  // namespace wanpar
