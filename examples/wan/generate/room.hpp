#pragma once
#include <cstdint>
#include <string>

namespace wan {

/// Memory that this process can still take.
struct Room {
  uint64_t bytes;
  std::string limit;  ///< what sets it, as in `ulimit -v`
};

/// The least of what the machine has free (MemAvailable), the limits of its control groups (memory.max,
/// memory.limit_in_bytes) and the process's own (RLIMIT_AS, RLIMIT_DATA) leave.
Room room();

/// `1.5 GiB`, as a person reads it.
std::string gibibytes(uint64_t bytes);

/// To be called where an exception is at hand: what it says, in one sentence. Where memory or threads ran out
/// it says that, in what `phase`, how much was asked for and how much there is.
std::string sentence_of_failure(const std::string& phase);

}  // namespace wan
