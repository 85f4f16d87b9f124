#pragma once
#include <array>
#include <string>
#include <vector>

namespace wan {

/// All solvers, the official default first. scheduler.cpp makes them, in this order.
inline constexpr std::array kSolverNames = {"unipc", "dpm++", "euler", "diffusers_unipc"};

inline std::vector<std::string> solver_names() { return {kSolverNames.begin(), kSolverNames.end()}; }

}  // namespace wan
