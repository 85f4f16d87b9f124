#pragma once
#include <wanpar/core/communicator.hpp>

#include <iosfwd>

#include "wan/generate/job.hpp"
#include "wan/generate/shared_transformer.hpp"

namespace wan {

/// Loads the transformer as the job wants it: its dtype and device.
Transformer load_transformer(const Job& job, at::Device device);

/// Collective. What each rank does for one video: rank 0 encodes the text, all denoise together, rank 0
/// decodes the latents, writes the files, and says on `out` how far it is. Every rank throws when one fails.
void generate(const wanpar::Communicator& world, const Job& job, SharedTransformer& transformer,
              at::Device device, std::ostream& out);

}  // namespace wan
