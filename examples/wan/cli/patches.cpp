#include "wan/cli/patches.hpp"

#include <vector>

#include "wan/cli/flag.hpp"

namespace wan {
namespace po = boost::program_options;
namespace {

constexpr int64_t kFewestSteps = 8;

constexpr Count kOverlap = {0, 16384, "no video is larger", "16"};
constexpr Count kChunk = {1, 4093, "no video has more frames", "16"};
constexpr Count kExactSteps = {0, 1000, "the schedule has 1000 timesteps", "4"};
constexpr Amount kStaleness = {0, 1e6, "it is a part of the norm", "0.1"};

void check(const RequestedPatches& patches) {
  const auto& mode = patches.split_mode;
  if (patches.temporal_chunk_size && mode != "temporal")
    refuse("--temporal_chunk_size {} is for --split_mode temporal, and this is {}; leave one of them out",
           *patches.temporal_chunk_size, mode);
  if (patches.patch_overlap && mode == "spatiotemporal")
    refuse(
        "--patch_overlap {} is for --split_mode spatial or temporal, and this is spatiotemporal; leave one "
        "of them out",
        *patches.patch_overlap);
  if (!patches.sync_first_step && (patches.warmup_steps > 0 || patches.sync_frequency > 0))
    refuse(
        "--sync_first_step false, but --warmup_steps {} and --sync_frequency {} make the first step "
        "synchronous; give 0 for both, or leave it out",
        patches.warmup_steps, patches.sync_frequency);
}

}  // namespace

void add_patch_flags(po::options_description& flags) {
  flags.add_options()                                                                             //
      ("patch_parallel_size", text("N"), "ranks that a video's patches are dealt to: not exact")  //
      ("split_mode", one_of({"spatial", "temporal", "spatiotemporal"}, "spatial"),
       "cut into rows, frames, or both")                                                                    //
      ("patch_overlap", text("N"), "pixels (frames) seen beyond a patch (default: all)")                    //
      ("temporal_chunk_size", text("N"), "frames that see one another (default: all)")                      //
      ("warmup_steps", text("N", "4"), "exact steps at the beginning")                                      //
      ("sync_frequency", text("N", "0"), "every N-th step is exact; 0: none")                               //
      ("sync_first_step", text("BOOL", "true"), "the first is, without warm-up too")                        //
      ("async_boundary_update", text("BOOL", "true"), "boundaries are not waited for")                      //
      ("kv_dtype", one_of({"bfloat16", "float8_e4m3fn"}), "of others' keys and values (default: --dtype)")  //
      ("max_staleness", text("X"), "change of keys that makes the next step exact (default: any)");
}

const std::vector<std::string>& patch_fields() {
  static const std::vector<std::string> names = {
      "split_mode",     "patch_overlap",   "temporal_chunk_size",   "warmup_steps",
      "sync_frequency", "sync_first_step", "async_boundary_update", "kv_dtype",
      "max_staleness"};
  return names;
}

RequestedPatches read_patches(const Words& words) {
  RequestedPatches patches;
  if (!words.has("patch_parallel_size")) {
    for (const auto& flag : patch_fields())
      if (words.has(flag.c_str()))
        refuse(
            "--{} says how patches are dealt, and nobody asked for any; add --patch_parallel_size 2, or "
            "leave it out",
            flag);
    return patches;
  }
  patches.split_mode = *words.one_of("split_mode");
  patches.patch_overlap = words.count("patch_overlap", kOverlap);
  patches.temporal_chunk_size = words.count("temporal_chunk_size", kChunk);
  patches.warmup_steps = *words.count("warmup_steps", kExactSteps);
  patches.sync_frequency = *words.count("sync_frequency", kExactSteps);
  patches.sync_first_step = *words.truth("sync_first_step");
  patches.async_boundary_update = *words.truth("async_boundary_update");
  patches.kv_dtype = words.one_of("kv_dtype");
  patches.max_staleness = words.amount("max_staleness", kStaleness);
  check(patches);
  return patches;
}

void check_steps(const RequestedPatches& patches, int64_t patch_parallel_size, int64_t steps) {
  const bool is_exact = patches.warmup_steps >= steps || patches.sync_frequency == 1;
  if (patch_parallel_size == 1 || is_exact || steps >= kFewestSteps) return;
  refuse(
      "--sample_steps {} with --patch_parallel_size {}: in fewer than {} steps the video changes too much "
      "from one to the next for patches that are a step old; take {} steps, or --warmup_steps {}, with which "
      "all are exact",
      steps, patch_parallel_size, kFewestSteps, kFewestSteps, steps);
}

}  // namespace wan
