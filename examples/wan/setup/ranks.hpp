#pragma once
#include <wanpar/core/communicator.hpp>

#include "wan/setup/finding.hpp"

namespace wan::setup {

/// Collective. Each operation that strategies use, whether its result is right, how long a small one takes,
/// and how many bytes a second a large one moves; and how far apart the ranks come to a barrier.
Findings ranks(const wanpar::Communicator& world);

/// Collective. Those of all ranks, on each of them.
Findings gathered(const wanpar::Communicator& world, const Findings& mine);

}  // namespace wan::setup
