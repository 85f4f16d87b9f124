#pragma once
#include <string>

#include "wan/cli/words.hpp"

namespace wan {

/// Each flag's value and its source, one per line, as TOML that --config can read. Defaults are comments.
std::string print_config(const Words& words);

}  // namespace wan
