#pragma once
#include <wanpar/core/communicator.hpp>

#include <iosfwd>

#include "wan/generate/job.hpp"
#include "wan/generate/shared_transformer.hpp"

namespace wan {

/// Collective. What each rank does for the videos of a job: texts are encoded first, then each data-parallel
/// group makes its prompts one after the other, its ranks denoising together and its first one decoding and
/// writing. Rank 0 says on `out` how far it is. Every rank throws when one fails.
void generate(const wanpar::Communicator& world, const Job& job, SharedTransformer& transformer,
              at::Device device, std::ostream& out);

}  // namespace wan
