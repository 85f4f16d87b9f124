#pragma once
#include <string>
#include <vector>

namespace wan {

/// The one of `candidates` that `word` most likely meant: fewest letters inserted, removed or replaced.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace wan
