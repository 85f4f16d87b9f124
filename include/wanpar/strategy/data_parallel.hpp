#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/no_sync.hpp>

#include <memory>
#include <string>
#include <vector>

//  DataParallel: every rank holds the whole module and runs a part of the batch.
//
//  BatchMode::global                                  BatchMode::local
//  the batch is cut, the result gathered             each rank has its own batch, gradients are averaged
//
//     samples 0 1 2 3 4                                 backward ─────────────────────────▶ time
//     rank 0 [0 1] ─▶ module ─┐                         rank 0  [last layers][  middle  ][first layers]
//     rank 1 [2 3] ─▶ module ─┼▶ [0 1 2 3 4]            rank 1  [last layers][  middle  ][first layers]
//     rank 2 [4]   ─▶ module ─┘   on every rank         network              [ bucket 0 ][  bucket 1  ][ 2 ]
//
//  Both train, through the same buckets. exact
namespace wanpar {

/// What the inputs of a rank are.
enum class BatchMode {
  global,  ///< every rank gives the same whole batch, which is compared, and has the whole result, as on one
          ///< rank
  local,  ///< every rank gives a batch of its own and has the result of that
};

struct BatchDim {
  int64_t dim = 0;
  ValueName result = {};  ///< which of several; all of them where left out
};

struct DataParallelOptions {
  Communicator group = {};
  BatchMode mode = BatchMode::global;
  /// global: the arguments whose dimension 0 is the batch; every other one goes to each rank as it is.
  ValueNames batch = ValueNames::first();
  /// global: where the batch is in results, instead of what their operators tell. For modules with operators
  /// that are not known, each of which must treat samples one by one.
  std::vector<BatchDim> gather = {};
  /// When wrapped, parameters and buffers become those of rank 0.
  bool sync_module_states = true;
  /// local: before each forward outside no_sync, buffers (running statistics) become those of rank 0. Off,
  /// each rank keeps its own; so it must be for two forwards before one backward that needs the first's.
  bool broadcast_buffers = true;
  /// Gradients travel in buckets of about this size.
  int64_t bucket_bytes = int64_t{25} << 20;
  /// A parameter that some rank's forward uses and another's does not counts as a gradient of zero there, and
  /// unused_parameters() names it; otherwise that is an Error. Buckets then leave at the end of backward.
  bool find_unused_parameters = false;
};

class DataEngine;

class DataParallelStrategy {
 public:
  using Options = DataParallelOptions;
  static constexpr bool kByBlocks = false;
  DataParallelStrategy(Options options, const ModuleTensors& tensors);

  NoSync no_sync();
  /// With find_unused_parameters: those that had no gradient on some rank in the last backward.
  std::vector<std::string> unused_parameters() const;

  bool is_alone() const;
  std::vector<Communicator> groups() const;
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;

 private:
  std::shared_ptr<DataEngine> engine_;
};

/// A module that runs on several batches at a time, one a rank. Collective: wrapping, every call, and every
/// backward outside no_sync.
///
/// global: exact for any batch, one smaller than the group too (a rank without samples runs the first one
/// and drops it). Each rank computes the loss of the whole result; a plain loss.backward() then gives every
/// rank the parameter gradients, and the gradients of inputs, that one rank would have. Of a result, samples
/// are gathered along the dimension that they have come to; what mixes samples, or is not known not to, is
/// refused where a result stems from it, and so is what depends on them in buffers. Results that do not stem
/// from the batch are given as they are. Random operators draw on each rank for itself.
///
/// local: each rank computes the loss of its own result; after a plain loss.backward() every rank has the
/// mean of the ranks' parameter gradients. With equally large batches and a mean for loss, that is the
/// gradient of the whole batch.
///
/// In both, all-reduces of gradients start while backward is still under way, and backward() returns with
/// them done; so does any backward that comes to the parameters, as one of a penalty on them. It throws Error
/// on every rank when a parameter had a gradient on some ranks only, naming it. All parameters that need a
/// gradient must be the module's own: a function around a module has none and is refused. Each rank that
/// trains has a module of its own; without gradients ranks may share one.
///
/// The two branches of guidance are a batch of two, so nothing more is needed for them: over a group of two,
/// `model(at::cat({x, x}), at::cat({text, no_text}))` computes one branch on each rank, and over
/// `mesh["cfg"]`, outside a SequenceParallel over another axis, one in each half of the ranks.
///
/// Payload leaving a rank, n ranks: global forward (n − 1) · (its part of the result + 48 bytes + 16 for each
/// argument), and 8 more where there are buffers, reduced; backward
/// 2 (n − 1) / n · (parameters + 2 elements for each of them), to the element where n does not divide a
/// bucket, and as much of each argument that needs a gradient; wrapping and each local forward
/// (n − 1) · (parameters and) buffers from rank 0; once, with the first gradients, 8 bytes a parameter from
/// rank 0, which says in which order they came.
///
/// Throws Error on every rank, before anything is moved, when the ranks' modules differ in names, shapes or
/// dtypes.
template <class Module>
using DataParallel = Wrapped<Module, DataParallelStrategy>;

/// `model | data_parallel({.group = mesh["data"]})`.
inline auto data_parallel(DataParallelOptions options) {
  return Closure<DataParallel, DataParallelOptions>(std::move(options));
}

}  // namespace wanpar
