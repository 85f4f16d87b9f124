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

//  ShardedParams: each rank holds a part of every unit of parameters; a unit is whole only while it is used.
//
//     units       root     blocks.0  blocks.1  blocks.2        forward    gather 1 ─▶ use 1 ─▶ let go of 1
//     rank 0    [ ···· ]   [ ···· ]  [ ···· ]  [ ···· ]                   gather 2 (prefetched) ─▶ use 2 …
//     rank 1    [ ···· ]   [ ···· ]  [ ···· ]  [ ···· ]        backward   gather 2 ─▶ gradients of 2 ─▶
//     rank 2    [ ···· ]   [ ···· ]  [ ···· ]  [ ···· ]                   reduce-scatter: each rank its part
//
//  With a unit of w bytes over n ranks, all ranks together send (n − 1)·w each time it is gathered, and (n −
//  1)·w for its gradients. full_shard gathers a unit whenever it is come to, in forward and in backward, and
//  is not among the last `prefetch` + 1 that were used; shard_grad_op gathers it once for both; no_shard
//  never. w counts each tensor rounded up to 64 bytes. exact
namespace wanpar {

enum class Sharding {
  full_shard,     ///< parameters, gradients and optimizer state are sharded
  shard_grad_op,  ///< likewise, but parameters stay whole from forward to the end of backward
  no_shard,       ///< every rank holds all; gradients are averaged
};

struct ShardedParamsOptions {
  Communicator group = {};
  /// Ranks that hold the same shard (hybrid sharding): gradients are averaged over them too.
  Communicator replicate = {};
  Sharding sharding = Sharding::full_shard;
  /// How many units are fetched ahead of the one in use.
  int64_t prefetch = 1;
  /// The units, as prefixes of parameter names ("encoder.layers.0"); what none names is the unit "root". By
  /// default the items of the outermost numbered lists ("blocks.3", "layer2": at least two of one structure),
  /// and beside them the largest submodules that are no larger than the largest item.
  std::vector<std::string> units = {};
  /// Units of fewer bytes are joined with those after them until they are as many: an exchange of a few
  /// kilobytes takes as long as one of a hundred. 0: each for itself.
  int64_t min_unit_bytes = 0;
  /// What floating-point parameters are computed and gathered in; shards keep the module's own dtype.
  std::optional<at::ScalarType> param_dtype = {};
  /// What gradients are averaged in; the gradients' own dtype where left out.
  std::optional<at::ScalarType> reduce_dtype = {};
  /// What floating-point buffers are cast to; param_dtype does not concern them.
  std::optional<at::ScalarType> buffer_dtype = {};
  /// Every rank takes the values of rank 0 (of `group` and of `replicate`). Otherwise ranks that hold the
  /// same ones (no_shard, `replicate`) must begin alike, which is compared in the first forward.
  bool sync_module_states = false;
};

/// Parameter bytes of one rank.
struct ParameterMemory {
  int64_t shards;    ///< this rank's part of all units
  int64_t resident;  ///< whole units that are here or on their way
  int64_t peak;      ///< the most that `resident` has been since the last reset_peak()
};

class ShardedEngine;

/// Gives the elements [begin, end) of a parameter, flat, in its logical (row-major) order.
using ParameterSource = std::function<at::Tensor(const std::string& name, int64_t begin, int64_t end)>;

class ShardedParamsStrategy {
 public:
  using Options = ShardedParamsOptions;
  static constexpr bool kByBlocks = false;
  ShardedParamsStrategy(Options options, const ModuleTensors& tensors);

  /// This rank's elements of each parameter, flat, under its first name: what parameters() lists without the
  /// names, an optimizer steps, and a backward leaves gradients in. Where this rank has all of the
  /// parameters, in the dtype that they are computed in, they are themselves listed. Some are empty; tied
  /// ones stand here once. A number made of a shard or its gradient (norm, sum, dot, max) is that of the
  /// whole parameter: collective over the group. What a rank would make of its elements alone throws Error.
  /// sizes() and numel() are this rank's; `place` has the sizes of the whole. **Not caught:** memory of the
  /// user's own (at::zeros, not zeros_like) that shards are added to: numbers of it are this rank's.
  NamedTensors named_shards() const;

  /// Collective. Scales the gradients so that their norm over all parameters and ranks is at most `max`;
  /// gives the norm that they had. Together with a BlockPipeline, whose ranks have the gradients of their own
  /// blocks, it wants the stages too.
  double clip_grad_norm(double max, const Communicator& stages = {});

  /// While what it gives lives, backwards leave their gradients whole on each rank; the next one after it
  /// averages the sum of all. Nests.
  NoSync no_sync() const;

  /// Collective. Shows every parameter by the module's own name, whole, in the dtype of the shards, a unit at
  /// a time on every rank: what a checkpoint is written from, by the one rank that writes.
  void each_parameter(const std::function<void(const std::string& name, const at::Tensor& value)>& show);

  /// Fills the shards. Each rank asks for its own elements only, in the order of the units; a parameter that
  /// is not laid out row by row is asked for whole.
  void load(const ParameterSource& source);

  /// Collective. While what it gives lives, every parameter is here, whole, in param_dtype, to be read and
  /// written, so that the inner module can be called by itself; the wrapper is not to be called meanwhile.
  /// What was written, alike on every rank, is kept at its end.
  [[nodiscard]] std::shared_ptr<void> unshard();

  std::vector<std::string> units() const;
  ParameterMemory memory() const;
  void reset_peak();

  /// Parameters lie whole on this rank, in the dtype that they have. Throws Error where some that were
  /// constructed deferred have not been loaded.
  bool is_alone() const;
  std::vector<Communicator> groups() const;
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;
  void set_placement(NamedTensors& parameters) const;
  /// Shards keep the dtype and the device with which they were made.
  template <class To>
  static void check_to(const To&) {
    refuse_to();
  }

 private:
  [[noreturn]] static void refuse_to();

  std::shared_ptr<ShardedEngine> engine_;
};

/// A module whose parameters are sharded over a group, in inference and in training; every rank calls it
/// alike.
///
/// The module's own tensors stay, and so do views of them, but hold no memory between uses: an operator on
/// one outside of a forward throws Error (each_parameter() and unshard() give values). A plain backward()
/// averages the gradients over the group and leaves each rank its part in named_parameters(), where a
/// parameter that no rank used has none. Every rank needs a module of its own.
///
/// Throws Error, on every rank and before any transfer: where the ranks' modules differ, where a named unit
/// does not exist, where the module has no parameters (a frozen TorchScript module has none left).
template <class Module>
using ShardedParams = Wrapped<Module, ShardedParamsStrategy>;

/// `model | sharded_params({.group = mesh["shard"], .prefetch = 1})`.
inline auto sharded_params(ShardedParamsOptions options) {
  return Closure<ShardedParams, ShardedParamsOptions>(std::move(options));
}

}  // namespace wanpar
