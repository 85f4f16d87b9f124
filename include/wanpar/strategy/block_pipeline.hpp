#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/pipeline_schedule.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/block_ranges.hpp>
#include <wanpar/module/model.hpp>

#include <functional>
#include <memory>
#include <vector>

//  BlockPipeline: each rank is a stage: it runs a contiguous range of a module's blocks on one micro-batch
//  after the other, and sends the activations to the next stage.
//
//              blocks             micro-batches 0 1 2 3 ──▶ time
//     rank 0   0 1 2    before    0 1 2 3
//     rank 1   3 4                . 0 1 2 3                   send, receive: one activation per micro-batch
//     rank 2   5 6 7              . . 0 1 2 3                 and boundary; the gradient comes back likewise
//     rank 3   8 9                . . . 0 1 2 3   after       idle: (ranks − 1) / (micro-batches + ranks − 1)
//
//  The parts before and after the blocks are replicated. exact
namespace wanpar {

/// How a side tensor (one that every block gets besides x) is passed to the micro-batches.
enum class Side {
  split,      ///< its dimension 0 is the batch: each micro-batch gets its samples
  replicate,  ///< each micro-batch gets all of it
};

/// How the loss of a batch is reduced over its samples.
enum class LossOf { mean, sum };

struct BlockPipelineOptions {
  Communicator stages = {};
  /// Number of micro-batches: dimension 0 is split evenly (sizes differ by at most one); fewer if there are
  /// fewer samples.
  int64_t micro_batches = 1;
  BlockSplit ranges = Equally{};
  /// One for each side tensor. By default a side tensor whose dimension 0 is not the batch size is
  /// replicated; one with dimension 0 equal to the batch size is ambiguous, and rejected.
  std::vector<Side> side = {};
  /// Wrapping broadcasts from rank 0 the parameters and buffers that every rank holds, unless deferred or
  /// sharded.
  bool sync_module_states = true;
};

struct TrainOptions {
  /// Inputs that every micro-batch gets in full. All others, and the target, have the batch in dimension 0.
  ValueNames replicate = {};
  LossOf loss = LossOf::mean;
  /// For a mean over some of the targets (ignore_index, class weights, a mask): the weight of a micro-batch
  /// in the mean, computed from its part of the target. By default each sample weighs the same.
  ///
  ///     .weight = [](const at::Tensor& target) { return target.ne(-100).sum(); }
  std::function<at::Tensor(const at::Tensor& target)> weight = {};
  /// Ranks that train the same stage on other samples (data parallelism): loss and gradients are averaged
  /// over them.
  Communicator replicas = {};
};

class PipelineEngine;

class BlockPipelineStrategy {
 public:
  using Options = BlockPipelineOptions;
  static constexpr bool kByBlocks = true;
  using Loss = std::function<at::Tensor(at::Tensor output, at::Tensor target)>;
  BlockPipelineStrategy(Options options, const ModuleTensors& tensors);

  /// Collective. Balances the stages by the time that each block took in the last pass, and returns the new
  /// ranges. After training steps, call it before constructing a new optimizer: parameters move with their
  /// blocks (`synchronize`), optimizer state does not. Pipelines that share or average anything must have
  /// equal ranges: pass the ranks of the same stage in the other pipelines as `replicas`, whose times are
  /// averaged. Throws Error if a rank has no memory for some parameters.
  const BlockRanges& rebalance(const Communicator& replicas = {});

  /// Collective. Broadcasts the parameters and buffers of each block from its stage: after training, before
  /// writing a checkpoint or using the module without the pipeline.
  void synchronize();

  /// The blocks of each stage; empty before the first pass.
  const BlockRanges& ranges() const;

  /// The forwards and backwards of this rank in the last pass. On CUDA, times are host times.
  const std::vector<PipelineEvent>& trace() const;

  bool is_alone() const;
  std::vector<Communicator> groups() const;
  std::unique_ptr<ForwardScope> begin_forward(const Arguments& arguments, std::shared_ptr<void> module) const;

 protected:
  at::Tensor train_by_blocks(const Model& by_blocks, Tensors inputs, at::Tensor target, const Loss& loss,
                             const TrainOptions& options) const;

 private:
  std::shared_ptr<PipelineEngine> engine_;
};

/// A module whose blocks are distributed over ranks, one stage per rank; every rank passes the same inputs
/// and gets the full result. It supports torch::nn::Sequential, TorchScript with submodules, `stack_of` three
/// callables, and any module that calls run_blocks; a module without blocks is rejected.
///
/// Blocks must treat the samples of a batch (dimension 0) independently; a batch norm in training does not,
/// and is rejected with several micro-batches. Activations may change shape from block to block; a shape that
/// differs between passes with equal inputs is rejected. The parts before and after the blocks must compute
/// the same on every rank, which is verified (no dropout there in training).
///
/// *Gradients.* `loss.backward()`, called on every rank, passes back through the stages: all forwards run
/// before all backwards (GPipe). `train_step` runs 1F1B instead, which keeps fewer micro-batches alive.
/// Afterwards each rank holds the gradients of its own blocks, and every rank the full gradients of all
/// parameters outside the blocks. Gradients of a parameter that several stages use, or of a tensor that a
/// block reads without receiving it as an argument, are rejected by backward() and summed by train_step.
///
/// *Payload*, summed over all ranks, for S stages with activations of a_s bytes (full batch) after stage s
/// and a result of r bytes: forward Σ a_s for s < S − 1, and (S − 1)·r to broadcast the result. backward() Σ
/// a_s, (S − 1)·bytes of x if it requires a gradient, and 2 (S − 1) bytes of each side tensor that does.
/// train_step 2 Σ a_s, and 2 (S − 1) times the bytes of the parameters outside the blocks and of 2 + n
/// numbers, where n is the number of those parameters. Every pass compares the arguments over the ranks, and
/// one without train_step also the inputs of the blocks and the result: S·(S − 1)·(24 + 16 t) bytes for t
/// tensors each. The first pass of each shape broadcasts the shapes between stages: S·(S − 1) KiB more.
///
/// One instance per rank; its calls are collective over the stages. A rank may hold only the parameters of
/// its own stage and those outside the blocks (OwnStage).
template <class Module>
class BlockPipeline : public Wrapped<Module, BlockPipelineStrategy> {
 public:
  BlockPipeline(Module module, BlockPipelineOptions options)
      : Wrapped<Module, BlockPipelineStrategy>(std::move(module), std::move(options)) {}

  /// Collective. One 1F1B pass: returns the loss of the full batch [] on every rank, and accumulates
  /// gradients in `grad()`. The last stage calls `loss(output, target)` for each micro-batch. A mean over
  /// samples is weighted by the size of the micro-batch, and called again, without gradients, on each pair of
  /// consecutive micro-batches, to verify that it is a mean. A module that calls run_blocks must pass it what
  /// comes after the blocks. Throws Error for a module without blocks, and for a loss that contradicts .loss
  /// and .weight.
  at::Tensor train_step(Tensors inputs, at::Tensor target, const BlockPipelineStrategy::Loss& loss,
                        const TrainOptions& options = {}) {
    auto by_blocks = [this](Values values) {
      return detail::call_values(*this->module(), std::move(values), this->runner())
          .template as<at::Tensor>();
    };
    return this->train_by_blocks(Model(by_blocks), std::move(inputs), std::move(target), loss, options);
  }
};

/// `model | block_pipeline({.stages = mesh["pipe"], .micro_batches = 4})`.
inline auto block_pipeline(BlockPipelineOptions options) {
  return Closure<BlockPipeline, BlockPipelineOptions>(std::move(options));
}

}  // namespace wanpar
