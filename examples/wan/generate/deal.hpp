#pragma once
#include <cstdint>
#include <optional>

namespace wan {

/// Prompts assigned to groups round-robin: 5 prompts on 2 groups are 0 2 4 and 1 3.
struct Deal {
  int64_t prompts = 1;
  int64_t groups = 1;
  int64_t group = 0;  ///< of this rank

  int64_t rounds() const { return (prompts + groups - 1) / groups; }

  /// This group's prompt in a round; nullopt if there are none left.
  std::optional<int64_t> prompt(int64_t round) const {
    const auto dealt = round * groups + group;
    return dealt < prompts ? std::optional(dealt) : std::nullopt;
  }
};

}  // namespace wan
