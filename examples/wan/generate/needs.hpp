#pragma once
#include "wan/generate/job.hpp"

namespace wan {

/// How many ranks share a host's memory.
struct HostShare {
  int processes = 1;
  int threads = 1;  ///< ranks of each process
};

/// Throws Error where memory cannot suffice for the job: what a phase surely takes, and what there is. Called
/// before the first weight is read.
void check_memory(const Job& job, const HostShare& share);

}  // namespace wan
