#pragma once
#include <string>
#include <vector>

#include "wan/setup/finding.hpp"

namespace wan::setup {

/// What all ranks say alike is one finding; where they differ, the worst is told, and of which rank it is.
Findings of_all_ranks(const std::vector<Findings>& ranks);

State worst_of(const Findings& findings);

/// A line each, and a last one that counts them.
std::string table(const Findings& findings);
/// {"state": "ok", "findings": [{"what", "state", "found", "remedy", "rank"}]}
std::string json(const Findings& findings);

// As text between ranks.
std::string written(const Findings& findings);
Findings read(const std::string& text);

}  // namespace wan::setup
