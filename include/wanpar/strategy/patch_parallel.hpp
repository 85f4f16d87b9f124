#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/placement.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

//  PatchParallel: each rank computes a patch of the video. In most denoising steps it uses the other ranks'
//  stale activations of the previous step (displaced patch parallelism, DistriFusion, arXiv:2402.19481).
//
//              step t − 1                 step t                      step t + 1
//     rank 0   keys, values of patch 0 ─┐ attention of patch 0 to ──┐ …
//     rank 1   keys, values of patch 1 ─┼▶ own of t, others' of t−1  └▶ others' of t
//     rank 2   keys, values of patch 2 ─┘                  communication overlaps with a full step
//
//  Warm-up and synchronous steps are exact. Displaced steps are approximate, and do not wait for
//  communication.
namespace wanpar {

/// The dimensions of a video that are split over the ranks.
enum class SplitMode {
  spatial,         ///< rows of all frames
  temporal,        ///< frames
  spatiotemporal,  ///< both: ranges of frames × ranges of rows; needs tokens that state their grid
};

/// The statistics that a norm over split dimensions (group norm) uses in displaced steps.
enum class NormMode {
  synchronous,  ///< of all ranks in this step, which it waits for
  stale,        ///< its own of this step, and the others' of the previous step
  corrected,    ///< of all ranks in the previous step, corrected by the change of its own since
};

/// An argument that is a video, replicated on every rank: [batch, channels, frames, rows, columns] by
/// default.
struct SplitVideo {
  ValueName arg = 0;
  std::optional<int64_t> frames = 2;  ///< the frame dimension, if there is one
  std::optional<int64_t> rows = 3;    ///< the row dimension, if there is one
};

/// Must be equal on every rank, except for the groups.
struct PatchParallelOptions {
  Communicator group = {};  ///< one patch per rank
  /// Exact Ulysses sequence parallelism within each patch: ranks of this group split its tokens, with an
  /// all-to-all to heads for attention.
  Communicator ulysses = {};
  SplitMode split_mode = SplitMode::spatial;
  /// Spatiotemporal: the number of frame ranges; the group is mesh.flatten({"frames", "rows"}).
  int64_t temporal_parts = 1;
  /// For a module that cannot be edited: the arguments that are videos. Leave it empty for a module that
  /// calls split_sequence, with the token grid, and gather_sequence.
  std::vector<SplitVideo> split = {};
  /// The split dimensions of results, which are verified. Empty: every tensor of the result must be sharded.
  std::vector<GatherOutput> gather = {};
  /// Number of synchronous steps at the beginning.
  int64_t warmup_steps = 4;
  /// Whether the first step is synchronous without warm-up; if not, a rank sees nothing of the others in it.
  bool sync_first_step = true;
  /// Every sync_frequency-th step, counted from the first, is synchronous; 0: none.
  int64_t sync_frequency = 0;
  /// Limits attention in displaced steps to a halo of so many rows (frames in temporal mode) of tokens on
  /// both sides of the rank's patch; the full video by default.
  std::optional<int64_t> patch_overlap = {};
  /// Temporal: limits attention in displaced steps to chunks of so many frames, counted from the first of the
  /// video, plus patch_overlap frames on both sides.
  std::optional<int64_t> temporal_chunk_size = {};
  /// If true, displaced steps use the previous step's halos, too: of convolutions, and of attention if that
  /// is limited. If false, they wait for the halos of this step.
  bool async_boundary_update = true;
  NormMode norm_mode = NormMode::corrected;
  /// The dtype in which stale keys and values are sent and stored: the model's dtype by default,
  /// at::kBFloat16, or at::kFloat8_e4m3fn with a scale per head. Synchronous steps use the model's dtype.
  std::optional<at::ScalarType> kv_dtype = {};
  /// Staleness limit: if what a rank sends in any exchange (mostly keys and values) has changed since the
  /// previous step by more than this fraction of its norm, the next step is synchronous.
  std::optional<double> max_staleness = {};
};

/// The stale activations of all ranks that a rank stores for one exchange of the module, between steps.
struct PatchBuffer {
  int64_t call;      ///< index of the call after update_step: guidance branches have separate buffers
  int64_t place;     ///< index of the exchange in that call
  std::string what;  ///< "keys and values", "halo", "moments"
  int64_t age;       ///< steps since the exchange
  std::optional<double> staleness;  ///< relative change of this rank's own part in the last step
  int64_t bytes;
};

/// The mode of the current step, and what this rank stores and has sent.
struct PatchStatus {
  std::string mode;  ///< "warm-up", "synchronous", "displaced"; "exact" without steps or on one rank
  std::optional<int64_t> step;  ///< nullopt before update_step and after synchronize
  std::vector<PatchBuffer> buffers;
  int64_t bytes_sent;  ///< keys, values and halos that this rank has sent since the first step
  int64_t bytes_held;  ///< of all buffers

  std::string text() const;  ///< a summary line, and a line per buffer
  std::string json() const;  ///< an object with the names of these fields
};

class PatchGroup;
class PatchSteps;
class SplitModule;

class PatchParallelStrategy {
 public:
  using Options = PatchParallelOptions;
  static constexpr bool kByBlocks = false;
  PatchParallelStrategy(Options options, const ModuleTensors& tensors);

  /// Starts a denoising step; the following calls belong to it. Step 0 resets all state; other steps must be
  /// consecutive, or follow synchronize(), which restarts the warm-up. Throws Error for a step out of order.
  void update_step(int64_t step);
  /// Waits for transfers in flight and drops all stale activations. Calls are exact until the next
  /// update_step.
  void synchronize();
  /// The status of this rank. Synchronises with the GPU to read the staleness of buffers.
  PatchStatus status() const;

  bool is_alone() const;
  std::vector<Communicator> groups() const;
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;

 private:
  PatchParallelOptions options_;
  std::shared_ptr<PatchSteps> steps_;
  std::shared_ptr<const PatchGroup> group_;
  std::shared_ptr<SplitModule> module_;
};

/// A module that runs with a patch of the video on each rank; every rank passes the same full inputs and gets
/// the full result. Before any update_step, and in warm-up and synchronous steps, it is exact for any module,
/// like SequenceParallel. In displaced steps attention (scaled_dot_product_attention) uses the keys and
/// values of its own patch, and the previous step's of the others; convolutions use the previous step's
/// halos. All other operators, including attention written as matrix products, stay exact.
///
/// The n-th call after update_step uses the stale activations of the n-th call of the previous step: call the
/// branches of guidance in the same order in every step. Each call compares step, call and mode over the
/// ranks.
///
/// Throws Error, on every rank and before any other transfer, for options or modules that differ by rank, for
/// fewer rows or frames than ranks, for split_sequence without a grid, for other shapes than in the previous
/// step, and for steps with gradients. Gradients of exact calls are as in SequenceParallel. A single rank is
/// exact in every step.
template <class Module>
using PatchParallel = Wrapped<Module, PatchParallelStrategy>;

/// `model | patch_parallel({.group = mesh["patch"], .split_mode = SplitMode::spatial})`.
inline auto patch_parallel(PatchParallelOptions options) {
  return Closure<PatchParallel, PatchParallelOptions>(std::move(options));
}

}  // namespace wanpar
