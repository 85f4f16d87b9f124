#pragma once
#include <poll.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/blame.hpp"
#include "transport/questions.hpp"
#include "transport/socket.hpp"

namespace wanpar {

/// The heartbeat of a run: each pair of ranks keeps a connection, on which each says once a period that it
/// lives, and whether it has moved since. An end of it without a word is the end of that process; three beats
/// that do not come are a process that is stopped, or out of reach. A pair that was never connected, as where
/// something between hosts forbids it, is never said to be lost.
///
/// Times are those of the caller's RunningClock. Not for several threads.
class Beats {
 public:
  using Milliseconds = std::chrono::milliseconds;

  /// Begins to connect to the ranks above this one; those below come.
  Beats(int rank, const std::vector<Peer>& peers, Milliseconds period, Milliseconds now);

  /// A connection that another rank has made, and what has come on it so far.
  void accept(int rank, Socket socket, std::string heard, Milliseconds now);
  /// Adds the connections, on each of which something may come.
  void wait_for(std::vector<pollfd>& ready) const;

  /// What another rank has said beside its beats.
  struct News {
    int rank;
    std::string line;
  };
  /// Takes what has come: `ready` is what wait_for() has added, in the same order, and nothing was accepted
  /// since.
  std::vector<News> hear(std::span<const pollfd> ready, Milliseconds now);

  /// Sends a beat where one is due; whether it was. `moves`: whether this rank has moved since the last one.
  bool beat(bool moves, Milliseconds now);
  /// Says a line to all ranks.
  void say(const std::string& line);

  /// The ranks that have ended without a word, or are silent.
  States lost(Milliseconds now) const;
  /// Whether a rank has said that it ends.
  bool said_bye(int rank) const { return others_[rank].said_bye; }
  /// When a rank last said that it had moved.
  Milliseconds last_move() const { return last_move_; }
  Milliseconds period() const { return period_; }

  static constexpr const char* kVerb = "beats";  ///< how a connection begins: `TOKEN beats RANK`
  static constexpr const char* kBye = "bye";

 private:
  struct Link {
    Socket socket;
    bool stands;
    bool is_answered;  ///< before, an end of it says nothing: the other one may have been too busy to let it
                       ///< in
    std::string heard = {};
  };
  struct Other {
    std::vector<Link> links;
    std::optional<Milliseconds> heard_at, ended_at;
    bool said_bye = false;
  };

  void dial(int rank, Milliseconds now);
  void dial_missing(Milliseconds now);
  bool greet(int rank, Link& link, Milliseconds now);
  bool receive(Link& link, Other& other, Milliseconds now);
  void take_lines(int rank, Link& link, std::vector<News>& news, Milliseconds now);

  int rank_;
  const std::vector<Peer>& peers_;
  std::vector<Other> others_;
  Milliseconds period_, sent_, last_move_;
};

}  // namespace wanpar
