#pragma once
#include <wanpar/strategy/patch_parallel.hpp>

#include "wan/generate/job.hpp"

namespace wan {

/// The options of the job's patches, without groups: pixels and frames of the flags become rows and frames of
/// tokens, rounded up. Throws Error, in terms of the flags, for a video that is too small.
wanpar::PatchParallelOptions patch_options(const Job& job);

/// A lower bound of the bytes of stale keys and values that one rank stores between steps.
double bytes_kept(const Job& job);

}  // namespace wan
