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

/// A wait of this rank for other ranks of a group, registered while it exists. With heartbeats it is over
/// when a rank of the group is lost, or when no rank of the run has made progress for the call's timeout:
/// ranks that compute are waited for, however long it takes. Without heartbeats it is over at the timeout.
class Wait {
 public:
  /// `interrupt` ends the blocking call of a library, from another thread.
  Wait(std::shared_ptr<Pulse> pulse, const RunGroup& group, const Call& call, const Deadline& deadline,
       std::function<void()> interrupt = {});
  ~Wait();
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

  bool is_over() const { return pulse_ ? end_ != End::none : deadline_.is_over(); }
  /// Whether it is over because a rank is lost, even one that it did not wait for.
  bool found_lost() const { return end_ == End::lost; }
  /// The timeout for a library's own wait; `least` if no time is left.
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

/// A timeout for waits that end by an interrupt only.
inline constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

}  // namespace wanpar
