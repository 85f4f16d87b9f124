#pragma once
#include <string>
#include <vector>

#include "wan/cli/options.hpp"

namespace wan {

/// The prompts to make videos of: the one given, or those of the file, one a line; blank lines are none.
/// Throws UsageError for a file that cannot be read or holds no prompt, and for more data-parallel groups
/// than prompts.
std::vector<std::string> prompts_of(const Options& options);

}  // namespace wan
