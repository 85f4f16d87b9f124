#pragma once
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "transport/pulse.hpp"
#include "transport/wait.hpp"

namespace wanpar {

/// This rank's membership in a group. If the ranks have met in a run, it can find out which of them are
/// alive, and the others learn that this one has left before its connections close.
class Membership {
 public:
  /// Without a pulse, for a backend that the user has made, no rank can be asked.
  explicit Membership(RunGroup group, std::shared_ptr<Pulse> pulse = {});
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  /// The membership in a subgroup of these ranks.
  std::shared_ptr<Membership> of_part(const std::string& name, std::span<const int> ranks) const;

  const std::string& name() const { return group_.name; }
  const RunGroup& group() const { return group_; }
  const std::shared_ptr<Pulse>& pulse() const { return pulse_; }
  /// Throws the failure of an earlier transfer of this group: its ranks are out of step, and one would
  /// receive what another call has sent.
  void begin(const Call& call) const;

  /// In a catch block: throws the error for a transfer that failed. `peer` is the rank that it was with, -1
  /// if it may be any.
  [[noreturn]] void throw_failed(const Call& call, int peer, const std::exception& failure) const;
  /// As above for a transfer that was waited for, by how the wait ended.
  [[noreturn]] void throw_ended(const Wait& wait, const Call& call, int peer,
                                const std::exception& failure) const;

 private:
  void throw_late(const Call& call, int peer) const;
  void throw_broken(const Call& call, int peer, const std::exception& failure) const;
  [[noreturn]] void keep_and_throw(const std::function<void()>& thrower) const;

  RunGroup group_;
  std::shared_ptr<Pulse> pulse_;
  mutable std::mutex mutex_;
  mutable std::exception_ptr failure_;
};

}  // namespace wanpar
