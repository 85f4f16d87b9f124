#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/no_sync.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

//  ShardedParams: every unit of parameters is sharded, and unsharded only while it is used (FSDP).
//
//     units       root     blocks.0  blocks.1  blocks.2        forward    gather 1 ─▶ use 1 ─▶ reshard 1
//     rank 0    [ ···· ]   [ ···· ]  [ ···· ]  [ ···· ]                   gather 2 (prefetched) ─▶ use 2 …
//     rank 1    [ ···· ]   [ ···· ]  [ ···· ]  [ ···· ]        backward   gather 2 ─▶ gradients of 2 ─▶
//     rank 2    [ ···· ]   [ ···· ]  [ ···· ]  [ ···· ]                   reduce-scatter: each rank its shard
//
//  For a unit of w bytes on n ranks, all ranks together send (n − 1)·w for each all-gather, and (n − 1)·w for
//  its gradients. full_shard all-gathers a unit before each use, in forward and in backward, unless it is
//  still resident (the last prefetch + 1 units are); shard_grad_op all-gathers it once for both; no_shard
//  never. w counts each tensor rounded up to 64 bytes. exact
namespace wanpar {

enum class Sharding {
  full_shard,     ///< parameters, gradients and optimizer state are sharded
  shard_grad_op,  ///< likewise, but parameters are resharded only after backward
  no_shard,       ///< parameters are replicated, gradients averaged
};

struct ShardedParamsOptions {
  Communicator group = {};
  /// Ranks that hold the same shard (hybrid sharding, HSDP): gradients are averaged over them, too.
  Communicator replicate = {};
  Sharding sharding = Sharding::full_shard;
  /// Number of units that are prefetched ahead of the one in use.
  int64_t prefetch = 1;
  /// The units, as prefixes of parameter names ("encoder.layers.0"); all other parameters form the unit
  /// "root". By default: the items of the outermost numbered lists ("blocks.3", "layer2": at least two of
  /// equal structure), and the largest other submodules that are no larger than the largest item.
  std::vector<std::string> units = {};
  /// Units of fewer bytes are merged with the following ones until they reach this size: an all-gather of a
  /// few kilobytes takes as long as one of a hundred. 0: no merging.
  int64_t min_unit_bytes = 0;
  /// The dtype of floating-point parameters in computation and all-gather; shards keep the module's own
  /// dtype.
  std::optional<at::ScalarType> param_dtype = {};
  /// The dtype of gradient reduction; the gradients' own dtype by default.
  std::optional<at::ScalarType> reduce_dtype = {};
  /// The dtype that floating-point buffers are cast to; param_dtype does not affect them.
  std::optional<at::ScalarType> buffer_dtype = {};
  /// Broadcasts the values of rank 0 (of `group` and of `replicate`). If false, ranks that hold the same
  /// shards (no_shard, `replicate`) must start with equal values, which the first forward verifies.
  bool sync_module_states = false;
};

/// Parameter bytes of one rank.
struct ParameterMemory {
  int64_t shards;    ///< this rank's shards of all units
  int64_t resident;  ///< unsharded units, including those being prefetched
  int64_t peak;      ///< the maximum of `resident` since the last reset_peak()
};

class ShardedEngine;

/// Returns the elements [begin, end) of a parameter, flat, in row-major order.
using ParameterSource = std::function<at::Tensor(const std::string& name, int64_t begin, int64_t end)>;

class ShardedParamsStrategy {
 public:
  using Options = ShardedParamsOptions;
  static constexpr bool kByBlocks = false;
  ShardedParamsStrategy(Options options, const ModuleTensors& tensors);

  /// This rank's shard of each parameter, flat, under the parameter's first name: the tensors that an
  /// optimizer steps and that backward stores gradients in. If this rank has all parameters, in the dtype of
  /// computation, the parameters themselves are listed. Shards may be empty; tied parameters are listed once.
  /// Reductions of a shard or its gradient to one number (norm, sum, dot, max) give that of the full
  /// parameter, and are collective over the group; operators that would give a different result on each rank
  /// throw Error. sizes() and numel() are those of the shard; NamedTensor::shard has the full sizes. **Not
  /// detected:** shards added to a tensor of the user's own (at::zeros, not zeros_like): its reductions are
  /// local.
  NamedTensors named_shards() const;

  /// Collective. Clips the gradient norm over all parameters and ranks to `max`, and returns the norm before
  /// clipping. With a BlockPipeline, whose ranks have the gradients of their own blocks, pass its stages.
  double clip_grad_norm(double max, const Communicator& stages = {});

  /// While the guard lives, backward accumulates unsharded gradients on each rank; the next backward after it
  /// reduces the sum. Nests.
  NoSync no_sync() const;

  /// Collective. Calls `show` on every rank with each unsharded parameter under the module's own name, in the
  /// dtype of the shards, one unit at a time: to write a checkpoint from one rank.
  void each_parameter(const std::function<void(const std::string& name, const at::Tensor& value)>& show);

  /// Fills the shards from `source`. Each rank requests only its own elements, in the order of the units; a
  /// parameter that is not row-major in memory is requested in full.
  void load(const ParameterSource& source);

  /// Collective. While the result lives, all parameters are unsharded, in param_dtype, and may be read and
  /// written, so that the inner module can be called directly; do not call the wrapper meanwhile. On release,
  /// writes (which must be the same on every rank) are copied back to the shards.
  [[nodiscard]] std::shared_ptr<void> unshard();

  std::vector<std::string> units() const;
  ParameterMemory memory() const;
  void reset_peak();

  /// True if parameters are unsharded and need no hooks: there is one rank, and no cast. Throws Error if
  /// parameters that were constructed deferred have not been loaded.
  bool is_alone() const;
  std::vector<Communicator> groups() const;
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;
  void set_placement(NamedTensors& parameters) const;
  /// Throws Error: shards keep their dtype and device.
  template <class To>
  static void check_to(const To&) {
    refuse_to();
  }

 private:
  [[noreturn]] static void refuse_to();

  std::shared_ptr<ShardedEngine> engine_;
};

/// A module whose parameters are sharded over a group, for inference and training. All calls are collective.
///
/// The module's own parameter tensors, and views of them, stay valid but have no memory between uses: an
/// operator on one outside a forward throws Error (use each_parameter() or unshard()). A plain backward()
/// averages the gradients over the group and leaves each rank's shard in named_parameters(); a parameter that
/// no rank used has no gradient. Every rank needs a module of its own.
///
/// Throws Error, on every rank and before any transfer, if the ranks' modules differ, if a named unit does
/// not exist, or if the module has no parameters (such as a frozen TorchScript module).
template <class Module>
using ShardedParams = Wrapped<Module, ShardedParamsStrategy>;

/// `model | sharded_params({.group = mesh["shard"], .prefetch = 1})`.
inline auto sharded_params(ShardedParamsOptions options) {
  return Closure<ShardedParams, ShardedParamsOptions>(std::move(options));
}

}  // namespace wanpar
