#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/no_sync.hpp>

#include <memory>
#include <string>
#include <vector>

//  DataParallel: the module is replicated, the batch is sharded.
//
//  BatchMode::global                                 BatchMode::local
//  the batch is split, the result gathered           each rank has its own batch, gradients are averaged
//
//     samples 0 1 2 3 4                                 backward ─────────────────────────▶ time
//     rank 0 [0 1] ─▶ module ─┐                         rank 0  [last layers][  middle  ][first layers]
//     rank 1 [2 3] ─▶ module ─┼▶ [0 1 2 3 4]            rank 1  [last layers][  middle  ][first layers]
//     rank 2 [4]   ─▶ module ─┘   on every rank         network              [ bucket 0 ][  bucket 1  ][ 2 ]
//
//  Both train, through the same buckets. exact
namespace wanpar {

/// Whether the inputs of a rank are the global batch or its own local batch.
enum class BatchMode {
  global,  ///< every rank passes the same global batch, which is verified, and gets the global result
  local,   ///< every rank passes a local batch of its own, and gets its result
};

struct BatchDim {
  int64_t dim = 0;
  ValueName result = {};  ///< which result; all of them by default
};

struct DataParallelOptions {
  Communicator group = {};
  BatchMode mode = BatchMode::global;
  /// global: the arguments whose dimension 0 is the batch; all others are replicated.
  ValueNames batch = ValueNames::first();
  /// global: the batch dimensions of results, instead of inferring them from the operators. For modules with
  /// unknown operators, each of which must treat samples independently.
  std::vector<BatchDim> gather = {};
  /// Wrapping broadcasts the parameters and buffers of rank 0.
  bool sync_module_states = true;
  /// local: before each forward outside no_sync, the buffers (running statistics) of rank 0 are broadcast. If
  /// false, each rank keeps its own; required if two forwards precede a backward that needs the first's
  /// buffers.
  bool broadcast_buffers = true;
  /// Approximate size of the gradient buckets.
  int64_t bucket_bytes = int64_t{25} << 20;
  /// If true, a parameter that is used on some ranks only counts as having a zero gradient on the others, and
  /// unused_parameters() names it; all-reduces then start at the end of backward. If false, it is an Error.
  bool find_unused_parameters = false;
};

class DataEngine;

class DataParallelStrategy {
 public:
  using Options = DataParallelOptions;
  static constexpr bool kByBlocks = false;
  DataParallelStrategy(Options options, const ModuleTensors& tensors);

  NoSync no_sync();
  /// With find_unused_parameters: the parameters without a gradient on some rank in the last backward.
  std::vector<std::string> unused_parameters() const;

  bool is_alone() const;
  std::vector<Communicator> groups() const;
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;

 private:
  std::shared_ptr<DataEngine> engine_;
};

/// A module that is replicated on every rank, each of which runs a shard of the batch. Collective: wrapping,
/// every call, and every backward outside no_sync.
///
/// global: exact for any batch size, even one smaller than the group (a rank without samples runs the first
/// one and discards the result). Each rank computes the loss of the global result; a plain loss.backward()
/// then gives every rank the gradients of parameters and inputs of a single-rank run. Results are gathered
/// along the dimension where the batch has ended up. Operators that mix samples would see only the local
/// shard: a result that depends on such an operator, or on one that is not known to treat samples
/// independently, is rejected; so is a buffer update that depends on the samples (batch norm in training).
/// Results that do not depend on the batch are returned as they are. Random operators draw independently on
/// each rank.
///
/// local: each rank computes the loss of its own result; after a plain loss.backward() every rank has the
/// mean of the ranks' parameter gradients. With local batches of equal size and a mean loss, that is the
/// gradient of the global batch.
///
/// In both modes, gradient all-reduces overlap with backward, and are complete when backward() returns; so
/// with any backward that reaches the parameters, such as that of a penalty on them. It throws Error on every
/// rank if a parameter had a gradient on some ranks only, naming it. All parameters that require a gradient
/// must be the module's own: a function that calls a module lists none, and is rejected. Each rank that
/// trains needs a module of its own; without gradients, thread ranks may share one.
///
/// Classifier-free guidance is a batch of two: over a group of two ranks, `model(at::cat({x, x}),
/// at::cat({text, no_text}))` computes one branch on each rank; over `mesh["cfg"]`, outside a
/// SequenceParallel over another axis, one branch on each half of the ranks.
///
/// Payload sent by a rank, n ranks: forward in global mode (n − 1) · (its shard of the result + 48 bytes + 16
/// for each argument), and an all-reduce of 8 bytes if there are buffers; backward 2 (n − 1) / n ·
/// (parameters + 2 elements for each of them), rounded up to an element if n does not divide a bucket, and as
/// much for each argument that requires a gradient; wrapping: (n − 1) · (parameters and buffers) from rank 0;
/// forward in local mode: (n − 1) · buffers from rank 0; once, with the first gradients, 8 bytes per
/// parameter from rank 0: the order in which gradients become ready.
///
/// Throws Error on every rank, before any transfer, if the ranks' modules differ in names, shapes or dtypes.
template <class Module>
using DataParallel = Wrapped<Module, DataParallelStrategy>;

/// `model | data_parallel({.group = mesh["data"]})`.
inline auto data_parallel(DataParallelOptions options) {
  return Closure<DataParallel, DataParallelOptions>(std::move(options));
}

}  // namespace wanpar
