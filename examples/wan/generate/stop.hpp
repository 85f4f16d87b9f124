#pragma once
#include <wanpar/core/agreement.hpp>

#include <atomic>

namespace wan {

/// What the ranks of a job throw that was stopped.
class Stopped : public wanpar::AgreedError {
 public:
  Stopped() : Error("it was stopped"), AgreedError("it was stopped") {}
};

/// The wish that a job end before it is done. Its ranks follow at the same boundary, or none does.
class Stop {
 public:
  void ask() { is_asked_ = true; }
  bool is_asked() const { return is_asked_; }
  /// Whether this rank has thrown.
  bool was_followed() const { return was_followed_; }

  /// Collective. Throws Stopped on every rank of the group where its first one was asked.
  void follow(const wanpar::Communicator& group);

 private:
  std::atomic<bool> is_asked_ = false, was_followed_ = false;
};

}  // namespace wan
