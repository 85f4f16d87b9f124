#pragma once
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "transport/socket.hpp"

namespace wanpar {

/// Where a rank of the run answers, and the word by which it knows who belongs to the run.
struct Peer {
  Endpoint there;
  std::string token;
};

/// Asks some of the peers, by their ranks, at the same time. What each replies: nothing where it has ended,
/// no entry where it is silent.
std::map<int, std::string> ask(const std::vector<Peer>& peers, const std::vector<int>& ranks,
                               const std::string& question, std::chrono::milliseconds limit);

/// What comes on a connection until a line has ended, 200 ms at most.
std::string receive_line(const Socket& socket);

}  // namespace wanpar
