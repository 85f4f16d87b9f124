#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/placement.hpp>

#include <cstdint>
#include <memory>
#include <vector>

//  SequenceParallel: tokens are sharded over the ranks; attention, which mixes tokens, is computed across
//  ranks.
//
//  Ulysses: all-to-all between tokens and heads     Ring: keys and values rotate, one shard at a time
//
//     tokens 0 1 2 3 | 4 5 6 7    heads 0 1 2 3         rank 0   queries 0 1 2   keys 0 1 2 → 6 7 8 → 3 4 5
//     rank 0 [-----]              rank 0 [-]            rank 1   queries 3 4 5   keys 3 4 5 → 0 1 2 → 6 7 8
//     rank 1           [-----]    rank 1    [-]         rank 2   queries 6 7 8   keys 6 7 8 → 3 4 5 → 0 1 2
//     before attention ──────▶ all-to-all ──▶ and back  partial results are merged by their maxima and sums
//
//  Both combined: tokens are sharded over ring × ulysses ranks, ulysses fastest. exact
namespace wanpar {

struct SequenceParallelOptions {
  Communicator ulysses = {};
  Communicator ring = {};
  /// For a module that cannot be edited: the arguments that hold tokens. Leave it empty for a module that
  /// calls split_sequence and gather_sequence.
  std::vector<SplitInput> split = {};
  /// The token dimensions of results, which are verified. Empty: every tensor of the result must be sharded,
  /// and its token dimension is inferred. If some results hold no tokens, list the others.
  std::vector<GatherOutput> gather = {};
  /// Zigzag placement: each rank of the ring gets a range from the front and its mirror image from the back,
  /// so that causal attention is load-balanced.
  bool balance_causal = false;
  /// A sequence with fewer tokens per rank is not split, but replicated on every rank.
  int64_t min_share = 1;
};

class SequenceGroup;
class SplitModule;

class SequenceParallelStrategy {
 public:
  using Options = SequenceParallelOptions;
  static constexpr bool kByBlocks = false;
  SequenceParallelStrategy(Options options, const ModuleTensors& tensors);

  bool is_alone() const;
  std::vector<Communicator> groups() const;
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;

 private:
  std::shared_ptr<const SequenceGroup> group_;
  std::shared_ptr<SplitModule> module_;
};

/// A module that runs with its tokens sharded over ulysses × ring ranks; every rank passes the same full
/// inputs and gets the full result. Exact for any length, number of heads and mask, for causal attention, and
/// for any other LibTorch operators: inside, a sharded tensor reports its global sizes (like a DTensor), and
/// operators run on this rank's shard. Attention, convolutions, norms, reductions, concatenation and slicing
/// communicate as needed; an operator without a sharding rule runs on the gathered tensor on every rank:
/// correct, but without speed-up.
///
/// Throws Error, on every rank and before any other transfer, if the ranks' parameters differ in name, shape
/// or dtype. In a call, it rejects what cannot be sharded exactly, naming the operator: random numbers for
/// sharded tokens (dropout), access through data pointers, and tensors or numbers that should be replicated
/// but differ by rank (compared in the first call for each set of shapes).
///
/// If every rank computes the same loss of the full result, every rank gets the gradients of a single-rank
/// run: those of weights are all-reduced within backward, which may be called anywhere. One instance per
/// rank. Thread ranks may share the wrapped module; a backward() that would then accumulate several ranks'
/// gradients in one `.grad` throws Error.
template <class Module>
using SequenceParallel = Wrapped<Module, SequenceParallelStrategy>;

/// `model | sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"]})`.
inline auto sequence_parallel(SequenceParallelOptions options) {
  return Closure<SequenceParallel, SequenceParallelOptions>(std::move(options));
}

}  // namespace wanpar
