#pragma once
#include <wanpar/core/error.hpp>

#include <chrono>
#include <functional>

namespace wanpar {

/// How ranks look after each other.
struct Heartbeat {
  std::chrono::milliseconds period{1000};  ///< of beats; none with 0
  /// Told once, on a thread of its own, of the first ranks that are lost. Must not throw.
  std::function<void(const PeerLostError&)> on_lost = {};
};

}  // namespace wanpar
