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

/// The heartbeats of a run: each pair of ranks keeps a connection, on which each sends once a period that it
/// is alive, and whether it has made progress since. A connection that ends without a goodbye means that the
/// process has ended; three missing beats mean that it is stopped or unreachable. A pair that was never
/// connected, for instance because of a firewall, is never reported as lost.
///
/// Times are those of the caller's RunningClock. Not thread-safe.
class Beats {
 public:
  using Milliseconds = std::chrono::milliseconds;

  /// Starts to connect to the ranks above this one; those below connect to it.
  Beats(int rank, const std::vector<Peer>& peers, Milliseconds period, Milliseconds now);

  /// A connection that another rank has made, and what has been received on it so far.
  void accept(int rank, Socket socket, std::string heard, Milliseconds now);
  /// Appends the connections to poll.
  void wait_for(std::vector<pollfd>& ready) const;

  /// A message of another rank other than a beat.
  struct News {
    int rank;
    std::string line;
  };
  /// Reads what was received: `ready` is what wait_for() has appended, in the same order, with no accept() in
  /// between.
  std::vector<News> hear(std::span<const pollfd> ready, Milliseconds now);

  /// Sends a beat if one is due; returns whether it was. `moves`: whether this rank has made progress since
  /// the last one.
  bool beat(bool moves, Milliseconds now);
  /// Sends a line to all ranks.
  void say(const std::string& line);

  /// The ranks that have ended without a goodbye, or are silent.
  States lost(Milliseconds now) const;
  /// Whether a rank has sent its goodbye.
  bool said_bye(int rank) const { return others_[rank].said_bye; }
  /// When a rank last reported progress.
  Milliseconds last_move() const { return last_move_; }
  Milliseconds period() const { return period_; }

  static constexpr const char* kVerb = "beats";  ///< the first line of a connection: `TOKEN beats RANK`
  static constexpr const char* kBye = "bye";

 private:
  struct Link {
    Socket socket;
    bool stands;
    bool is_answered;  ///< before that, its end means nothing: the other rank may not have accepted it yet
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
