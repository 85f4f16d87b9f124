#pragma once
#include <wanpar/strategy/patch_parallel.hpp>

#include "wan/generate/job.hpp"

namespace wan {

/// How the tokens of the job's video are dealt, but for the groups: pixels and frames of the flags become
/// whole rows and frames of tokens, rounded up. Throws Error, in terms of the flags, for a video that has too
/// few of them.
wanpar::PatchParallelOptions patch_options(const Job& job);

/// Bytes that one rank surely keeps of all patches' keys and values from step to step.
double bytes_kept(const Job& job);

}  // namespace wan
