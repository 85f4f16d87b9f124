#pragma once
#include <optional>
#include <string>
#include <vector>

#include "wan/cli/usage_error.hpp"

namespace wanrun {

using wan::UsageError;  // the launcher exits with 2

/// What to start, and where it stands among the hosts of a run.
struct CommandLine {
  std::optional<std::string> answer = {};  ///< to be printed, and nothing to be started
  int ranks = 1;                           ///< on this host
  std::vector<int> gpus = {};              ///< CUDA devices that they see; all where there are none
  std::string backend = {};                ///< "nccl" or "gloo"; the program chooses where empty
  int hosts = 1;
  int host = 0;  ///< this one's number
  std::string master_addr = "127.0.0.1";
  int master_port = 0;                    ///< 0: a free one
  bool has_prefix = true;                 ///< lines begin with the rank that printed them
  std::vector<std::string> program = {};  ///< and its arguments
};

/// Throws UsageError, one sentence.
CommandLine parse_command_line(const std::vector<std::string>& words);

}  // namespace wanrun
