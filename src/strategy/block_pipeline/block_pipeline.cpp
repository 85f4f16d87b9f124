#include <wanpar/strategy/block_pipeline.hpp>

#include "strategy/block_pipeline/pipeline_engine.hpp"

namespace wanpar::detail {

BlocksRegion pipelined_region(const std::shared_ptr<PipelineEngine>& engine) {
  engine->begin();
  return {engine, [&engine = *engine] { engine.end(); }};
}

std::shared_ptr<PipelineEngine> make_pipeline_engine(BlockPipelineOptions options, NamedTensors parameters,
                                                     NamedTensors buffers) {
  return std::make_shared<PipelineEngine>(std::move(options), std::move(parameters), std::move(buffers));
}

const Communicator& stages_of(const PipelineEngine& engine) { return engine.stages(); }

const BlockRanges& ranges_of(PipelineEngine& engine) {
  static const BlockRanges none;
  return engine.stacks().empty() ? none : engine.stacks()[0].ranges();
}

const BlockRanges& rebalance(PipelineEngine& engine, const Communicator& replicas) {
  if (engine.stages().size() > 1) engine.rebalance(replicas);
  return ranges_of(engine);
}

void synchronize(PipelineEngine& engine) { engine.synchronize(); }

const std::vector<PipelineEvent>& trace_of(PipelineEngine& engine) { return engine.trace(); }

}  // namespace wanpar::detail
