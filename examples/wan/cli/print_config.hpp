#pragma once
#include <string>

#include "wan/cli/words.hpp"

namespace wan {

/// Each flag's value and where it came from, a line each, as TOML that --config reads. What nobody gave
/// is a comment.
std::string print_config(const Words& words);

}  // namespace wan
