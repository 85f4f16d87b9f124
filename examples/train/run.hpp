#pragma once
#include <atomic>
#include <ostream>
#include <wanpar/core/communicator.hpp>

#include "train/options.hpp"

namespace wan::train {

/// Collective. Does what the options say on the ranks of `world`, which check_ranks() has let pass, each on
/// `device`; `stop` ends the run behind the step under way, with a checkpoint.
void run(const wanpar::Communicator& world, const Options& options, at::Device device,
         const std::atomic<bool>& stop, std::ostream& log);

}  // namespace wan::train
