#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace wan_top {

/// The values of a device; unknown ones are absent.
struct Device {
  int index = 0;
  std::string name;
  std::optional<uint64_t> memory_used, memory_total;  ///< bytes
  std::optional<double> utilisation;                  ///< percent of the time since the previous reading
  std::optional<double> temperature;                  ///< degrees Celsius
  std::optional<double> power, power_limit;           ///< watts
  std::optional<double> clock, clock_limit;           ///< MHz
  std::vector<std::string> throttled_by;
  std::string fault = {};                            ///< why it cannot be read; empty if it can
  std::map<int, uint64_t> memory_of_processes = {};  ///< bytes, by process
};

/// A process that a launcher has started as a rank.
struct Rank {
  int rank = 0, ranks = 1;
  int process = 0;
  std::string run;                        ///< identifies the run
  std::string program;                    ///< its name
  std::string state;                      ///< running, sleeping, stopped, …
  std::optional<double> utilisation;      ///< percent of one processor, since the previous reading
  std::optional<uint64_t> memory;         ///< bytes of host memory
  std::optional<uint64_t> device_memory;  ///< bytes
  std::vector<int> devices = {};          ///< on which it holds memory
};

struct Reading {
  std::string host, source;  ///< "NVML" or "/proc"
  std::vector<Device> devices;
  std::vector<Rank> ranks;
};

}  // namespace wan_top
