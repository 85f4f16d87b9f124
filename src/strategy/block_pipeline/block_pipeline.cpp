#include <wanpar/strategy/block_pipeline.hpp>

#include "module/blocks_scope.hpp"
#include "strategy/block_pipeline/pipeline_engine.hpp"
#include "strategy/block_pipeline/pipeline_training.hpp"

namespace wanpar {

BlockPipelineStrategy::BlockPipelineStrategy(Options options, const ModuleTensors& tensors)
    : engine_(std::make_shared<PipelineEngine>(std::move(options), tensors.parameters, tensors.buffers)) {}

bool BlockPipelineStrategy::is_alone() const { return engine_->stages().size() == 1; }
std::vector<Communicator> BlockPipelineStrategy::groups() const { return {engine_->stages()}; }

std::unique_ptr<ForwardScope> BlockPipelineStrategy::begin_forward(const Arguments& arguments,
                                                                   std::shared_ptr<void>) const {
  engine_->begin_pass(arguments);
  return std::make_unique<BlocksScope>("BlockPipeline", engine_,
                                       [&engine = *engine_](auto& results) { engine.end_pass(results); });
}

const BlockRanges& BlockPipelineStrategy::rebalance(const Communicator& replicas) {
  if (!is_alone()) engine_->rebalance(replicas);
  return ranges();
}

void BlockPipelineStrategy::synchronize() { engine_->synchronize(); }

const BlockRanges& BlockPipelineStrategy::ranges() const {
  static const BlockRanges none;
  return engine_->stacks().empty() ? none : engine_->stacks()[0].ranges();
}

const std::vector<PipelineEvent>& BlockPipelineStrategy::trace() const { return engine_->trace(); }

at::Tensor BlockPipelineStrategy::train_by_blocks(const Model& by_blocks, Tensors inputs, at::Tensor target,
                                                  const Loss& loss, const TrainOptions& options) const {
  detail::Forward step(groups());  // signals a failure to the other ranks
  try {
    return train_step(engine_, by_blocks, std::move(inputs), std::move(target), loss, options);
  } catch (...) {
    step.fail();
  }
}

}  // namespace wanpar
