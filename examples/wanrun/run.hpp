#pragma once
#include "wanrun/command_line.hpp"

namespace wanrun {

/// Starts the ranks and waits for them. When one fails the others get SIGTERM, and SIGKILL five seconds
/// later; Ctrl-C and SIGTERM are handed on once. The exit code of the rank that failed first, 0 where none
/// did. Throws std::system_error where the program cannot be started.
int run(const CommandLine& line);

}  // namespace wanrun
