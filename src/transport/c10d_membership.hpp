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

/// That this rank belongs to a group. Where the ranks have met in a run, it can be found out of each of them
/// whether it lives, and others learn that this one has left before its connections tell them.
class Membership {
 public:
  /// Where the user made the backend, nobody can be asked.
  explicit Membership(RunGroup group, std::shared_ptr<Pulse> pulse = {});
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  /// That of a part of these ranks.
  std::shared_ptr<Membership> of_part(const std::string& name, std::span<const int> ranks) const;

  const std::string& name() const { return group_.name; }
  const RunGroup& group() const { return group_; }
  const std::shared_ptr<Pulse>& pulse() const { return pulse_; }
  /// Throws what a transfer of this group failed with before: ranks are out of step then, and one would take
  /// what another call has sent.
  void begin(const Call& call) const;

  /// In a catch block: throws what is to be said of a transfer that failed. `peer` is whom it was with, -1
  /// where it may be any.
  [[noreturn]] void throw_failed(const Call& call, int peer, const std::exception& failure) const;
  /// The same for one that was waited for, by how that has ended.
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
