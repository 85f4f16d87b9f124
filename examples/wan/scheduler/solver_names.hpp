#pragma once
#include <string>
#include <vector>

namespace wan {

/// The names of all solvers, the official default first.
const std::vector<std::string>& solver_names();

}  // namespace wan
