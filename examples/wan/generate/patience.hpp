#pragma once
#include <chrono>

namespace wan {

/// How long ranks wait for one that loads, decodes or writes.
inline constexpr std::chrono::hours kPatience{1};

}  // namespace wan
