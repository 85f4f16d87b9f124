#pragma once
#include <optional>
#include <string>

#include "wan/cli/words.hpp"

namespace wan {

/// What a file or a user says of the processes that a launcher starts.
struct RequestedProcesses {
  std::optional<int64_t> world_size = {};  ///< ranks that there must be
  std::string gpu_ids = {};                ///< CUDA devices of this host, as 0,1,3; all where empty
};

/// Throws UsageError for what is no number of ranks or list of devices, and for fewer devices than ranks.
RequestedProcesses read_processes(const Words& words);

/// Throws UsageError where not as many ranks were started, and says how they are.
void check_started(const RequestedProcesses& processes, int64_t ranks, const std::string& program);

/// Lets this process see the devices alone, before CUDA begins. Throws UsageError where a launcher has dealt
/// others.
void show_devices(const RequestedProcesses& processes);

}  // namespace wan
