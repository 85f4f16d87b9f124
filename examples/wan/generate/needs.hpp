#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "wan/generate/job.hpp"
#include "wan/generate/room.hpp"

namespace wan {

/// The ranks that share a host's memory.
struct HostShare {
  int processes = 1;
  int threads = 1;                 ///< ranks of each process
  bool weights_are_there = false;  ///< they are loaded already
};

/// A lower bound of the memory of a phase on this host.
struct Need {
  std::string phase;
  uint64_t bytes;
  std::string remedy;  ///< what would take less
};
std::vector<Need> needs_of(const Job& job, const HostShare& share);

/// Throws Error if memory cannot suffice for the job, with the lower bound of a phase and what is available.
/// Called before the first weight is read.
void check_memory(const Job& job, const HostShare& share, const Room& left = room());

}  // namespace wan
