#pragma once
#include <wanpar/extend/core/call.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "transport/deadline.hpp"

namespace wanpar {

class Pulse;

/// The ranks of a group, as ranks of the run.
struct RunGroup {
  std::string name;
  std::vector<int> members;
};

/// A wait of this rank for others of a group, while it lives. Where ranks beat, it is over when one of the
/// group is lost, or when for the call's timeout no rank of the run has moved: who works is waited for,
/// however long it takes. Where they do not, it is over when the timeout is.
class Wait {
 public:
  /// `interrupt` ends the wait in a library that knows nothing of this, from another thread.
  Wait(std::shared_ptr<Pulse> pulse, const RunGroup& group, const Call& call, const Deadline& deadline,
       std::function<void()> interrupt = {});
  ~Wait();
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

  bool is_over() const { return pulse_ ? end_ != End::none : deadline_.is_over(); }
  /// Whether it is over because a rank is lost, whichever it waited for.
  bool found_lost() const { return end_ == End::lost; }
  /// What a library may be told that is to wait no longer than this; `least` where there is nothing left.
  std::chrono::milliseconds limit(std::chrono::milliseconds least) const;

 private:
  friend class Pulse;
  enum class End { none, lost, late };

  std::shared_ptr<Pulse> pulse_;
  const RunGroup& group_;
  const Call& call_;
  const Deadline& deadline_;
  std::function<void()> interrupt_;
  std::atomic<End> end_ = End::none;
};

/// For what is ended by an interrupt, and by nothing else.
inline constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

}  // namespace wanpar
