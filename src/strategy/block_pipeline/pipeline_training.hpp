#pragma once
#include <memory>
#include <wanpar/strategy/block_pipeline.hpp>

namespace wanpar {

/// Collective. One forward and one backward of each micro-batch, as BlockPipeline::train_step says.
at::Tensor train_step(const std::shared_ptr<PipelineEngine>& engine, const Model& forward, Tensors inputs,
                      at::Tensor target, const BlockPipelineStrategy::Loss& loss,
                      const TrainOptions& options);

}  // namespace wanpar
