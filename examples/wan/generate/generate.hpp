#pragma once
#include <wanpar/core/communicator.hpp>

#include <iosfwd>

#include "wan/generate/job.hpp"
#include "wan/generate/shared_transformer.hpp"

namespace wan {

/// Collective. Generates the videos of a job: encodes the texts, then each data-parallel group generates its
/// prompts one after the other: its ranks denoise and decode together, and its first rank writes. Rank 0
/// reports on `progress`; a rank that has written a video prints its name on `results`. If one rank fails, it
/// throws its error, and all others throw AgreedError with the same message.
void generate(const wanpar::Communicator& world, const Job& job, SharedTransformer& transformer,
              at::Device device, std::ostream& progress, std::ostream& results);

}  // namespace wan
