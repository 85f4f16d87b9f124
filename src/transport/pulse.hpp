#pragma once
#include <poll.h>
#include <wanpar/extend/core/call.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "transport/beats.hpp"
#include "transport/blame.hpp"
#include "transport/heartbeat.hpp"
#include "transport/running_clock.hpp"
#include "transport/socket.hpp"
#include "transport/wait.hpp"

namespace wanpar {

/// The liveness service of a process: it sends heartbeats, answers questions of other ranks for as long as it
/// is alive and running, and asks them when a transfer failed. A failed connection does not show which rank
/// caused it: in a library's collective it may be any, and a rank that ends because of a failure closes its
/// connections, too. So a rank that gives up first tells all others which ranks it found lost, and a rank
/// that finds it gone can name those.
///
/// It consists of a thread that blocks in poll, and a port.
class Pulse {
 public:
  /// Listens at the address of this host from which `master`, the address of `host`, can be reached.
  Pulse(const std::string& host, const Endpoint& master);
  ~Pulse();
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  /// The address at which other ranks reach it.
  const std::string& address() const { return address_; }
  /// The addresses of all ranks of the run; this one is `rank`, and `keeper` the one that hosts the store for
  /// new groups, or -1. Starts the heartbeats.
  void meet(int rank, int keeper, const std::vector<std::string>& addresses, Heartbeat heartbeat);
  bool beats() const { return beats_.has_value(); }

  /// This rank is about to connect to this group, has begun this call of it, or has left it.
  void enter(const std::string& group);
  void begin(const std::string& group, uint64_t call);
  void leave(const std::string& group);

  /// Throws for a call of this group that failed, or was too late, and names the ranks to blame. `peer` is
  /// the rank of the group whose connection failed, or that did not come; -1 if it may be any. All ranks that
  /// answer are told. Takes at most 2 s, and at most a fifth of the call's timeout. `detail` is the library's
  /// own message, empty if there is none.
  [[noreturn]] void throw_failed(const RunGroup& group, const Call& call, int peer,
                                 const std::string& detail);
  [[noreturn]] void throw_late(const RunGroup& group, const Call& call, int peer);

 private:
  friend class Wait;
  void add(Wait& wait);
  void remove(Wait& wait);

  void serve();
  void admit();
  void take_news();
  void pass();
  void end_waits(const States& lost);
  bool is_lost(const Wait& wait, const States& lost) const;
  bool is_late(const Wait& wait, std::chrono::milliseconds since) const;
  void report(const States& lost);
  std::string answer(const std::string& question);
  States find(const RunGroup& group, const Call& call, int peer, bool is_late);
  States found_by_asking(const std::string& question, std::chrono::milliseconds limit) const;
  void tell(const States& blamed, const States& found, std::chrono::milliseconds limit) const;
  std::string who(const RunGroup& group, const States& blamed) const;

  Socket listener_, stop_, stopped_;
  std::string token_, address_;
  Endpoint master_;
  int rank_ = -1, keeper_ = -1;
  std::vector<Peer> peers_;
  std::function<void(const PeerLostError&)> on_lost_;

  mutable std::mutex mutex_;
  std::optional<Beats> beats_;
  RunningClock clock_;
  std::map<std::string, uint64_t> groups_;               // the last call that this rank has begun in each
  std::map<std::string, std::map<int, uint64_t>> left_;  // by which ranks, with their last calls
  Blame blame_;
  std::map<Wait*, std::chrono::milliseconds> waits_;  // since when
  bool has_moved_ = false;                            // since its last beat
  std::chrono::milliseconds own_move_{0};
  std::chrono::steady_clock::time_point last_wait_ended_;
  /// A rank that has connected before this one knew all ranks.
  struct Early {
    int rank;
    Socket client;
    std::string heard;
  };
  std::vector<Early> early_;
  std::mutex interrupting_;
  std::vector<pollfd> ready_;  // used by the thread only
  std::thread thread_;
  std::jthread telling_;  // calls on_lost
};

}  // namespace wanpar
