#pragma once
#include <memory>
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
  void begin(const Call& call) const;

  /// In a catch block: throws the error for a transfer that failed, or that was too late. `peer` is the rank
  /// that it was with, -1 if it may be any.
  [[noreturn]] void throw_failed(const Call& call, int peer, const std::exception& failure) const;
  [[noreturn]] void throw_late(const Call& call, int peer) const;
  /// As above, by how the wait for it ended, if that is the reason of the failure.
  [[noreturn]] void throw_ended(const Wait& wait, const Call& call, int peer,
                                const std::exception& failure) const;

 private:
  RunGroup group_;
  std::shared_ptr<Pulse> pulse_;
};

}  // namespace wanpar
