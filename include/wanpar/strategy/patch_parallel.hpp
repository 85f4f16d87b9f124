#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/placement.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

//  PatchParallel: each rank holds a patch of the video, and in most steps of a sampler it sees the others' as
//  they were one step before (displaced patches, DistriFusion, arXiv:2402.19481).
//
//              step t − 1                 step t                      step t + 1
//     rank 0   keys, values of patch 0 ─┐ attention of patch 0 to ──┐ …
//     rank 1   keys, values of patch 1 ─┼▶ own of t, others' of t−1  └▶ others' of t
//     rank 2   keys, values of patch 2 ─┘                  the exchange has a whole step to arrive
//
//  Warm-up and synchronous steps are exact. Displaced ones are not, and nothing waits in them.
namespace wanpar {

/// What of a video is dealt to the ranks.
enum class SplitMode {
  spatial,         ///< rows, of all frames
  temporal,        ///< frames
  spatiotemporal,  ///< both: ranges of frames, and of rows of those; of tokens that state their grid
};

/// What a norm over split dimensions (group norm) takes in displaced steps.
enum class NormMode {
  synchronous,  ///< the statistics of all ranks, which are waited for
  stale,        ///< its own, and the others' of the step before
  corrected,    ///< those of all ranks of the step before, and how far its own have gone since
};

/// A video among the arguments, whole on every rank: [batch, channels, frames, rows, columns] where not said
/// otherwise.
struct SplitVideo {
  ValueName arg = 0;
  std::optional<int64_t> frames = 2;  ///< their dimension; none where it has none
  std::optional<int64_t> rows = 3;
};

/// The same on every rank, but for the groups.
struct PatchParallelOptions {
  Communicator group = {};  ///< the ranks that patches are dealt to
  /// Within each patch, exact: ranks of this group share its tokens, and trade them for heads at attention.
  Communicator ulysses = {};
  SplitMode split_mode = SplitMode::spatial;
  /// Spatiotemporal: into so many ranges the frames are dealt; the group is mesh.flatten({"frames", "rows"}).
  int64_t temporal_parts = 1;
  /// For a module that cannot be edited: which arguments are videos. One that states where its tokens begin
  /// and end, by split_sequence with their grid and gather_sequence, needs none.
  std::vector<SplitVideo> split = {};
  /// Where the split dimension of results is, to be checked. Left out, every tensor of the result must be
  /// split.
  std::vector<GatherOutput> gather = {};
  /// So many steps at the beginning are synchronous.
  int64_t warmup_steps = 4;
  /// Whether the first step is so where there is no warm-up; otherwise a rank sees nothing of the others in
  /// it.
  bool sync_first_step = true;
  /// Every so many-th step is synchronous, counted from the first; none where 0.
  int64_t sync_frequency = 0;
  /// In displaced steps attention sees so many rows (frames, where those are dealt) of tokens beyond the own
  /// patch, on both sides, and no more; all of the video where left out.
  std::optional<int64_t> patch_overlap = {};
  /// Temporal: in displaced steps so many frames see one another, counted from the first of the video, and
  /// patch_overlap more on both sides.
  std::optional<int64_t> temporal_chunk_size = {};
  /// Displaced steps take the boundary of the neighbours from the step before, too: what convolutions see of
  /// them, and what attention does where that is limited. Otherwise they wait for it.
  bool async_boundary_update = true;
  NormMode norm_mode = NormMode::corrected;
  /// What the others' keys and values travel and wait in between steps: the model's dtype where left out,
  /// at::kBFloat16, or at::kFloat8_e4m3fn with a scale for each head. Synchronous steps use the model's.
  std::optional<at::ScalarType> kv_dtype = {};
  /// When what any rank sends at one place of the module (keys and values, as a rule) has changed since the
  /// step before by more than so much of its norm, the next step is synchronous.
  std::optional<double> max_staleness = {};
};

/// What a rank holds of all of them at one place of the module, between steps.
struct PatchBuffer {
  int64_t call;                     ///< of those after update_step: guidance branches have their own
  int64_t place;                    ///< the how many-th exchange of that call
  std::string what;                 ///< "keys and values", "neighbours", "moments"
  int64_t age;                      ///< steps since it was exchanged
  std::optional<double> staleness;  ///< how much this rank's own has changed in the last step, of its norm
  int64_t bytes;
};

/// What a rank does in this step, and has kept and sent.
struct PatchStatus {
  std::string mode;             ///< "warm-up", "synchronous", "displaced"; "exact" without steps, or alone
  std::optional<int64_t> step;  ///< none before update_step, and after synchronize
  std::vector<PatchBuffer> buffers;
  int64_t bytes_sent;  ///< keys, values and neighbours that this rank has sent since the first step
  int64_t bytes_held;  ///< of all buffers

  std::string text() const;  ///< a line, and one for each buffer
  std::string json() const;  ///< an object with these names
};

class PatchGroup;
class PatchSteps;
class SplitModule;

class PatchParallelStrategy {
 public:
  using Options = PatchParallelOptions;
  static constexpr bool kByBlocks = false;
  PatchParallelStrategy(Options options, const ModuleTensors& tensors);

  /// The calls from here on belong to this step of a sampler. Step 0 begins anew; others follow one another,
  /// or begin anew after synchronize(), with a warm-up. Throws Error for a step out of order.
  void update_step(int64_t step);
  /// Waits for transfers in flight and forgets what the others had. Calls are exact until the next
  /// update_step.
  void synchronize();
  /// Of this rank. Waits for a GPU where it has to tell how stale buffers are.
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

/// A module that runs with a patch of the video on each rank; every rank gives the same whole inputs and has
/// the whole result. Before any update_step, and in warm-up and synchronous steps, it is exact, as
/// SequenceParallel is, whatever the module. In displaced steps attention (scaled_dot_product_attention)
/// takes its own patch's keys and values, and the others' of the step before; convolutions take their
/// neighbours' likewise. All else, attention written out as products too, stays exact.
///
/// The n-th call after update_step has the state of the n-th call of the step before: call the branches of
/// guidance in the same order in every step. Ranks compare step, call and mode in each.
///
/// Throws Error, on every rank and before any other transfer: for options or modules that differ, for fewer
/// rows or frames than ranks, for split_sequence without a grid, for other shapes than in the step before,
/// for steps with gradients. An exact call has gradients as SequenceParallel does. One rank alone is exact in
/// every step.
template <class Module>
using PatchParallel = Wrapped<Module, PatchParallelStrategy>;

/// `model | patch_parallel({.group = mesh["patch"], .split_mode = SplitMode::spatial})`.
inline auto patch_parallel(PatchParallelOptions options) {
  return Closure<PatchParallel, PatchParallelOptions>(std::move(options));
}

}  // namespace wanpar
