#pragma once
#include <string>
#include <vector>

namespace wan {

/// The one of `candidates` with the smallest edit distance to `word`.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace wan
