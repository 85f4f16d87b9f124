#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "wan/generate/job.hpp"
#include "wan/generate/room.hpp"

namespace wan {

/// How many ranks share a host's memory.
struct HostShare {
  int processes = 1;
  int threads = 1;                 ///< ranks of each process
  bool weights_are_there = false;  ///< they are loaded already
};

/// Memory that a phase surely takes on this host.
struct Need {
  std::string phase;
  uint64_t bytes;
  std::string remedy;  ///< what would take less
};
std::vector<Need> needs_of(const Job& job, const HostShare& share);

/// Throws Error where memory cannot suffice for the job: what a phase surely takes, and what is left. Called
/// before the first weight is read.
void check_memory(const Job& job, const HostShare& share, const Room& left = room());

}  // namespace wan
