#pragma once
#include <optional>
#include <string>

#include "wan/cli/words.hpp"

namespace wan {

/// The user's requirements on the processes that a launcher starts.
struct RequestedProcesses {
  std::optional<int64_t> world_size = {};  ///< ranks that there must be
  std::string gpu_ids = {};                ///< CUDA devices of this host, such as 0,1,3; empty: all
};

/// Throws UsageError for an invalid number of ranks or list of devices, and for fewer devices than ranks.
RequestedProcesses read_processes(const Words& words);

/// Throws UsageError if another number of ranks was started, and explains how to start them.
void check_started(const RequestedProcesses& processes, int64_t ranks, const std::string& program);

/// Restricts this process to the devices, before CUDA is initialised. Throws UsageError if a launcher has
/// assigned others.
void show_devices(const RequestedProcesses& processes);

}  // namespace wan
