#pragma once
#include <wanpar/core/communicator.hpp>

#include <iosfwd>

#include "wan/generate/job.hpp"
#include "wan/generate/shared_transformer.hpp"

namespace wan {

/// Collective. What each rank does for the videos of a job: texts are encoded first, then each data-parallel
/// group makes its prompts one after the other, its ranks denoising and decoding together and its first one
/// writing. Rank 0 says on `progress` how far it is; who has written a video says its name on `results`.
/// Every rank throws when one fails: the one that did what went wrong, the others AgreedError with its
/// sentence.
void generate(const wanpar::Communicator& world, const Job& job, SharedTransformer& transformer,
              at::Device device, std::ostream& progress, std::ostream& results);

}  // namespace wan
