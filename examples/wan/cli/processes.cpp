#include "wan/cli/processes.hpp"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <sstream>

namespace wan {

RequestedProcesses read_processes(const Words& words) {
  RequestedProcesses processes{.world_size = words.count("world_size", kDegree),
                               .gpu_ids = words.text("gpu_ids")};
  std::set<std::string> devices;
  std::istringstream items(processes.gpu_ids);
  for (std::string item; std::getline(items, item, ',');) {
    if (item.empty() || item.size() > 4 || item.find_first_not_of("0123456789") != item.npos)
      refuse("--gpu_ids '{}' is no list of devices; write it as in --gpu_ids 0,1", processes.gpu_ids);
    if (!devices.insert(item).second) refuse("--gpu_ids {} names device {} twice", processes.gpu_ids, item);
  }
  return processes;
}

void check_started(const RequestedProcesses& processes, int64_t ranks, const std::string& program) {
  const auto wanted = processes.world_size.value_or(ranks);
  if (wanted == ranks) return;
  refuse("--world_size {}, but {} {} started; start them by wanrun -n {} -- {} …, or take --local_ranks {}",
         wanted, ranks, ranks == 1 ? "rank was" : "ranks were", wanted, program, wanted);
}

void show_devices(const RequestedProcesses& processes) {
  if (processes.gpu_ids.empty()) return;
  constexpr const char* kVariable = "CUDA_VISIBLE_DEVICES";
  const auto* dealt = std::getenv(kVariable);
  if (dealt && *dealt && dealt != processes.gpu_ids)
    refuse("--gpu_ids {}, but {} is {}; leave one of them out", processes.gpu_ids, kVariable, dealt);
  if (!dealt) ::setenv(kVariable, processes.gpu_ids.c_str(), 0);
}

}  // namespace wan
