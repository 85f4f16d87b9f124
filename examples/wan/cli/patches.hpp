#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "wan/cli/words.hpp"

namespace wan {

/// The user's options for displaced patches, in pixels and frames of the video.
struct RequestedPatches {
  std::string split_mode = "spatial";               ///< spatial, temporal, spatiotemporal
  std::optional<int64_t> patch_overlap = {};        ///< pixels, or frames in temporal mode
  std::optional<int64_t> temporal_chunk_size = {};  ///< frames
  int64_t warmup_steps = 4;
  int64_t sync_frequency = 0;
  bool sync_first_step = true;
  bool async_boundary_update = true;
  std::optional<std::string> kv_dtype = {};  ///< bfloat16, float8_e4m3fn
  std::optional<double> max_staleness = {};
};

/// Adds the flags for the split into patches and for synchronous steps.
void add_patch_flags(boost::program_options::options_description& flags);
/// The flags that require patches.
const std::vector<std::string>& patch_fields();

/// Reads these flags. Throws UsageError if they contradict each other, or are given without patches.
RequestedPatches read_patches(const Words& words);

/// Throws UsageError if `steps` are too few for displaced patches.
void check_steps(const RequestedPatches& patches, int64_t patch_parallel_size, int64_t steps);

}  // namespace wan
