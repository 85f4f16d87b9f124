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

/// What a process does beside its work so that the ranks of a run know of each other: it beats, it answers
/// the others for as long as it lives and runs, and asks them when a transfer failed. A failed connection
/// says little of who is to blame: in a collective of a library it may be anybody's, and who ends because of
/// a failure closes its connections too. So a rank that gives up first tells all others whom it found lost,
/// and whoever finds that rank gone hears of the one before.
///
/// It is a thread that waits in the kernel, and a port.
class Pulse {
 public:
  /// Listens at the address of this host from which `master`, that of `host`, can be reached.
  Pulse(const std::string& host, const Endpoint& master);
  ~Pulse();
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  /// What other ranks need to find it.
  const std::string& address() const { return address_; }
  /// The addresses of all ranks of the run, of which this one is `rank` and `keeper` the one that new groups
  /// need to find each other; -1 where that is none. Begins to beat.
  void meet(int rank, int keeper, const std::vector<std::string>& addresses, Heartbeat heartbeat);
  bool beats() const { return beats_.has_value(); }

  /// This rank is about to connect to this group, has begun that call of it, has left it.
  void enter(const std::string& group);
  void begin(const std::string& group, uint64_t call);
  void leave(const std::string& group);

  /// Throws for a call of this group that failed, or was too late, and names the ranks that are to blame.
  /// `peer` is the rank of the group whose connection failed, or that did not come; -1 where it may be any.
  /// All ranks that answer are told. Takes 2 s at most, and a fifth of the call's timeout. `detail` is what
  /// a library said of it, empty where that says nothing.
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
  /// Who has come to beat before all were known here.
  struct Early {
    int rank;
    Socket client;
    std::string heard;
  };
  std::vector<Early> early_;
  std::mutex interrupting_;
  std::vector<pollfd> ready_;  // of the thread alone
  std::thread thread_;
  std::jthread telling_;  // of who is lost
};

}  // namespace wanpar
