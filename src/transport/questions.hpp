#pragma once
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "transport/socket.hpp"

namespace wanpar {

/// The address of a rank's liveness service, and the token by which it recognises members of the run.
struct Peer {
  Endpoint there;
  std::string token;
};

/// Asks several peers, by their ranks, concurrently. Their replies: an empty one for a rank that has ended,
/// none for a silent one.
std::map<int, std::string> ask(const std::vector<Peer>& peers, const std::vector<int>& ranks,
                               const std::string& question, std::chrono::milliseconds limit);

/// Receives from a connection up to the end of a line, for at most 200 ms.
std::string receive_line(const Socket& socket);

}  // namespace wanpar
