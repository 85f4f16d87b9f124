#pragma once
#include <wanpar/extend/core/call.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "transport/socket.hpp"

namespace wanpar {

/// Answers the other ranks of a run for as long as this process lives and runs, and asks them when a transfer
/// failed. A failed connection says little of who is to blame: in a collective of a library it may be
/// anybody's, and who ends because of a failure closes its connections too. So a rank that gives up first
/// tells all others whom it found lost, and whoever finds that rank gone hears of the one before.
///
/// It is a thread that waits in the kernel, and a port: nothing is sent while all is well.
class Pulse {
 public:
  /// The ranks of a group, as ranks of the run.
  struct Group {
    std::string name;
    std::vector<int> members;
  };

  /// Listens at the address of this host from which `master`, that of `host`, can be reached.
  Pulse(const std::string& host, const Endpoint& master);
  ~Pulse();
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  /// What other ranks need to find it.
  const std::string& address() const { return address_; }
  /// The addresses of all ranks of the run, of which this one is `rank` and `keeper` the one that new groups
  /// need to find each other; -1 where that is none.
  void meet(int rank, int keeper, const std::vector<std::string>& addresses);

  /// This rank is about to connect to this group, has begun that call of it, has left it.
  void enter(const std::string& group);
  void begin(const std::string& group, uint64_t call);
  void leave(const std::string& group);

  /// The sentence for a call of this group that failed, or was too late, which names the ranks that are to
  /// blame. `peer` is the rank of the group whose connection failed, or that did not come; -1 where it may be
  /// any. All ranks that answer are told. Takes 2 s at most, and a fifth of the call's timeout.
  std::string failed(const Group& group, const Call& call, int peer, const std::string& detail);
  std::string too_late(const Group& group, const Call& call, int peer);

 private:
  /// How a rank was found, what says most first.
  enum class State { ended, left, silent, behind, here };
  using States = std::map<int, State>;  // by rank of the run

  void serve();
  std::string answer(const std::string& question);
  std::map<int, std::string> ask(const std::vector<int>& ranks, const std::string& question,
                                 std::chrono::milliseconds limit) const;
  States find(const Group& group, const Call& call, int peer, bool is_late);
  States to_blame(const States& some, const States& found) const;
  void tell(const States& blamed, const std::vector<int>& who_answer, std::chrono::milliseconds limit) const;
  std::string who(const Group& group, const States& blamed) const;
  static std::string how(const States& blamed);

  Socket listener_, stop_, stopped_;
  std::string token_, address_;
  Endpoint master_;
  int rank_ = -1, keeper_ = -1;
  std::vector<std::pair<Endpoint, std::string>> peers_;  // with their tokens

  mutable std::mutex mutex_;
  std::map<std::string, uint64_t> groups_;  // the last call that this rank has begun in each
  std::map<int, States> told_;              // by whom, who was to blame
  std::thread thread_;
};

}  // namespace wanpar
