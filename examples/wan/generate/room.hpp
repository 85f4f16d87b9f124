#pragma once
#include <cstdint>
#include <string>

namespace wan {

/// Memory that this process can still allocate.
struct Room {
  uint64_t bytes;
  std::string limit;  ///< what limits it, e.g. `ulimit -v`
};

/// The minimum of the machine's free memory (MemAvailable) and what the limits of control groups (memory.max,
/// memory.limit_in_bytes) and of the process (RLIMIT_AS, RLIMIT_DATA) leave.
Room room();

/// Human-readable: `1.5 GiB`.
std::string gibibytes(uint64_t bytes);

/// Call in a catch block: the message of the current exception. If memory or threads ran out, it says so,
/// with the `phase`, and how much was requested and available.
std::string sentence_of_failure(const std::string& phase);

}  // namespace wan
