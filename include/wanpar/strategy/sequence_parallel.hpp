#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/placement.hpp>

#include <cstdint>
#include <memory>
#include <vector>

//  SequenceParallel: each rank holds a part of the tokens; attention, the one operator that mixes them, is
//  taken over.
//
//  Ulysses: tokens are traded for heads             Ring: keys and values go round, a part at a time
//
//     tokens 0 1 2 3 | 4 5 6 7    heads 0 1 2 3         rank 0   queries 0 1 2   keys 0 1 2 → 6 7 8 → 3 4 5
//     rank 0 [-----]              rank 0 [-]            rank 1   queries 3 4 5   keys 3 4 5 → 0 1 2 → 6 7 8
//     rank 1           [-----]    rank 1    [-]         rank 2   queries 6 7 8   keys 6 7 8 → 3 4 5 → 0 1 2
//     before attention ──────▶ all-to-all ──▶ and back  partial results are merged by their maxima and sums
//
//  Both at once: the tokens lie over ring × ulysses ranks, ulysses fastest. exact
namespace wanpar {

struct SequenceParallelOptions {
  Communicator ulysses = {};
  Communicator ring = {};
  /// For a module that cannot be edited: which arguments hold tokens. One that states it by split_sequence
  /// and gather_sequence needs none.
  std::vector<SplitInput> split = {};
  /// Where the result's tokens are, to be checked. Left out, every tensor of the result must hold tokens, and
  /// they are where they are found to be; of several results those that hold none are left out here.
  std::vector<GatherOutput> gather = {};
  /// Deals each rank of the ring a range from the front and its mirror image from the back, so that causal
  /// attention costs all of them alike.
  bool balance_causal = false;
  /// A sequence of fewer tokens a rank is not split: every rank computes all of it.
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

/// A module that runs with its tokens split over ulysses × ring ranks; every rank gives the same whole inputs
/// and has the whole result. Exact for any length, any number of heads, any mask, causal attention, and
/// whatever else a module does by LibTorch's operators: inside, a tensor that holds tokens has the sizes of
/// the whole, and operators run on this rank's part. Attention, convolutions, norms, reductions, joined
/// sequences and parts of them exchange what they need; an operator that is none of these, and is not known
/// to keep tokens apart, runs on all tokens on every rank, which is right and no faster than one.
///
/// Throws Error, on every rank and before any other transfer, where the ranks' parameters differ in a name,
/// shape or dtype. Inside, it refuses what cannot be carried exactly, naming the operator: random numbers for
/// split tokens (dropout), memory that is read by a pointer, tensors and numbers that ranks do not have alike
/// (compared in the first call for each set of shapes).
///
/// Gradients are those of one rank, on every rank, where every rank computes the same loss of the whole
/// result: those of weights are summed over the ranks within backward, which may be called anywhere. One
/// instance belongs to one rank. Ranks that are threads may share the wrapped module; a backward() that would
/// add each rank's gradients to the same `.grad` is an error then.
template <class Module>
using SequenceParallel = Wrapped<Module, SequenceParallelStrategy>;

/// `model | sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"]})`.
inline auto sequence_parallel(SequenceParallelOptions options) {
  return Closure<SequenceParallel, SequenceParallelOptions>(std::move(options));
}

}  // namespace wanpar
