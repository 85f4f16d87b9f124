#pragma once
#include <cstdint>
#include <optional>

namespace wan {

/// Prompts dealt to groups in turn, like cards: 5 of them to 2 groups are 0 2 4 and 1 3.
struct Deal {
  int64_t prompts = 1;
  int64_t groups = 1;
  int64_t group = 0;  ///< this rank's

  int64_t rounds() const { return (prompts + groups - 1) / groups; }

  /// This group's prompt in a round; none where they have run out.
  std::optional<int64_t> prompt(int64_t round) const {
    const auto dealt = round * groups + group;
    return dealt < prompts ? std::optional(dealt) : std::nullopt;
  }
};

}  // namespace wan
