#pragma once
#include <string>
#include <vector>

#include "wan/cli/options.hpp"

namespace wan {

/// The prompts for videos: the one given, or those of the file, one per line; blank lines are skipped. Throws
/// UsageError for a file that cannot be read or has no prompt, and for more data-parallel groups than
/// prompts.
std::vector<std::string> prompts_of(const Options& options);

}  // namespace wan
