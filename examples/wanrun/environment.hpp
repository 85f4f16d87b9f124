#pragma once
#include <string>
#include <vector>

#include "wanrun/command_line.hpp"

namespace wanrun {

/// A port of this host that nobody held a moment ago. Throws std::system_error where there is none.
int free_port();

/// "NAME=value" of a rank: what this process has, and where the rank stands. Those of another launcher that
/// this one was started by are left out. A rank takes cores/ranks threads where OMP_NUM_THREADS does not say.
std::vector<std::string> environment_of(const CommandLine& line, int local_rank, int port);

}  // namespace wanrun
