#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/pipeline_schedule.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/module/block_ranges.hpp>
#include <wanpar/module/model.hpp>

#include <functional>
#include <memory>
#include <vector>

//  BlockPipeline: each rank runs a contiguous range of a module's blocks on one micro-batch after the other,
//  and sends the result on.
//
//              blocks             micro-batches 0 1 2 3 ──▶ time
//     rank 0   0 1 2    before    0 1 2 3
//     rank 1   3 4                . 0 1 2 3                   send, receive: one activation per micro-batch
//     rank 2   5 6 7              . . 0 1 2 3                 and boundary; the gradient comes back likewise
//     rank 3   8 9                . . . 0 1 2 3   after       idle: (ranks − 1) / (micro-batches + ranks − 1)
//
//  What comes before and after the blocks runs on every rank. exact
namespace wanpar {

/// How a side tensor, one that every block is given, goes with the micro-batches.
enum class Side {
  split,      ///< its dimension 0 is the batch: each micro-batch gets its samples
  replicate,  ///< each micro-batch gets all of it
};

/// What the loss of a batch is of those of its samples.
enum class LossOf { mean, sum };

struct BlockPipelineOptions {
  Communicator stages = {};
  /// Pieces of the batch, dimension 0, as even as whole numbers allow; fewer where there are fewer samples.
  int64_t micro_batches = 1;
  BlockSplit ranges = Equally{};
  /// One for each side tensor. Where left out, a side tensor whose dimension 0 is not as long as the batch
  /// goes whole; one that is as long might be either, and is refused.
  std::vector<Side> side = {};
  /// When wrapped, parameters and buffers that every rank holds, with memory, become those of rank 0.
  bool sync_module_states = true;
};

struct TrainOptions {
  /// Inputs that are not per sample. All others, and the target, have the batch in dimension 0.
  ValueNames replicate = {};
  LossOf loss = LossOf::mean;
  /// For a mean over a part of the targets (ignore_index, class weights, a mask): what those of a micro-batch
  /// weigh in it, as one number, by its part of the target. Left out, each sample weighs the same.
  ///
  ///     .weight = [](const at::Tensor& target) { return target.ne(-100).sum(); }
  std::function<at::Tensor(const at::Tensor& target)> weight = {};
  /// Ranks that train the same stage on other samples: loss and gradients become the mean over them.
  Communicator replicas = {};
};

class PipelineEngine;

class BlockPipelineStrategy {
 public:
  using Options = BlockPipelineOptions;
  static constexpr bool kByBlocks = true;
  using Loss = std::function<at::Tensor(at::Tensor output, at::Tensor target)>;
  BlockPipelineStrategy(Options options, const ModuleTensors& tensors);

  /// Collective. Moves the boundaries to where the seconds that each block took in the last pass are spread
  /// best, and gives the new ranges. After training, call it before the optimizer is made: parameters
  /// move with their blocks (`synchronize`), an optimizer's state does not. Pipelines that share or average
  /// anything must be cut alike: give the ranks of the same stage in the others as `replicas`, whose times
  /// are averaged. Throws Error where parameters have no memory on every rank.
  const BlockRanges& rebalance(const Communicator& replicas = {});

  /// Collective. Gives every rank the parameters and buffers of all blocks as their stage has them: before a
  /// checkpoint is written, or the module is used without the pipeline, after training.
  void synchronize();

  /// The blocks of each stage; none before the first pass.
  const BlockRanges& ranges() const;

  /// What this rank did in the last pass. On CUDA the times are those of the host.
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

/// A module whose blocks are spread over ranks, each rank a stage; every rank gives the same inputs and has
/// the whole result. It cuts torch::nn::Sequential, TorchScript with submodules, `stack_of` three callables,
/// and any module that calls run_blocks; one without blocks is refused.
///
/// Blocks treat the samples of a batch, dimension 0, one by one; a batch norm in training does not, and is
/// refused where there are several micro-batches. Activations may change shape from block to block; a result
/// whose shape differs between passes of equal inputs is refused. What is before and after the blocks gives
/// the same on every rank, which is compared (no dropout there in training).
///
/// *Gradients.* `loss.backward()`, called on every rank, goes back through the stages, all forwards before
/// all backwards. `train_step` runs 1F1B instead, which keeps fewer micro-batches alive. Afterwards each rank
/// holds the gradients of its own blocks, and every rank those of all parameters outside of blocks, whole.
/// Gradients of a parameter that two stages use, or of what a block reads elsewhere than in its arguments,
/// are refused by backward() and summed by train_step.
///
/// *Payload*, all ranks together, of S stages with activations of a_s bytes (the whole batch) behind stage s
/// and a result of r bytes: forward Σ a_s for s < S − 1, and (S − 1)·r to give all ranks the result.
/// backward() Σ a_s, (S − 1)·bytes of x where that needs a gradient, and 2 (S − 1) bytes of each side tensor
/// that does. train_step 2 Σ a_s, and 2 (S − 1) times the bytes of the parameters outside of blocks and of 2
/// + n numbers, n of those parameters. Every pass compares what the ranks were given, and one without
/// train_step what goes into the blocks and the result: S·(S − 1)·(24 + 16 t) bytes for t tensors each. The
/// first pass of each shape compares what the stages give: S·(S − 1) KiB more.
///
/// One instance belongs to one rank, its calls are collective over the stages.
///
/// A rank may hold the parameters of its own stage only, and of what is outside of blocks.
template <class Module>
class BlockPipeline : public Wrapped<Module, BlockPipelineStrategy> {
 public:
  BlockPipeline(Module module, BlockPipelineOptions options)
      : Wrapped<Module, BlockPipelineStrategy>(std::move(module), std::move(options)) {}

  /// Collective. One 1F1B pass: the loss of the whole batch [] on every rank, gradients added to `grad()`.
  /// `loss(output, target)` is called by the last stage, a micro-batch at a time; a mean over samples is
  /// weighed by their number, and called again, without gradients, for every two neighbouring micro-batches
  /// together, to see that it is one. A module that calls run_blocks gives it what comes after the blocks.
  /// Throws Error for a module without blocks, and for a loss that is not what .loss and .weight say.
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
