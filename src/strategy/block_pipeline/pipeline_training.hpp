#pragma once
#include <memory>
#include <wanpar/strategy/block_pipeline.hpp>

namespace wanpar {

/// Collective. Implements BlockPipeline::train_step: one forward and backward of each micro-batch.
at::Tensor train_step(const std::shared_ptr<PipelineEngine>& engine, const Model& forward, Tensors inputs,
                      at::Tensor target, const BlockPipelineStrategy::Loss& loss,
                      const TrainOptions& options);

}  // namespace wanpar
