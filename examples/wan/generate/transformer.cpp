#include "wan/generate/transformer.hpp"

#include <wanpar/module/own_stage.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "wan/generate/load_sharded.hpp"
#include "wan/generate/patches.hpp"
#include "wan/generate/phase.hpp"

namespace wan {
namespace {

LoadOptions load_options(const Job& job, at::Device device) {
  return {.dtype = job.dtype, .device = device, .keep_float32 = kFloat32Parameters, .loaded = job.loaded};
}

wanpar::Model load_whole(const wanpar::Mesh& mesh, SharedTransformer& shared) {
  Transformer transformer{nullptr};
  all_in_phase(mesh.world(), "loading the transformer", [&] { transformer = shared.get(); });
  return transformer;
}

wanpar::BlockRanges stages_of(const wanpar::Mesh& mesh, const Job& job) {
  return wanpar::equal_ranges(job.checkpoint.transformer_config().layers, mesh.size("pipeline"));
}

/// This rank's part of the transformer: the blocks of its stage, and its shards of their weights.
wanpar::Model load_part(const wanpar::Mesh& mesh, const Job& job, const LoadOptions& options) {
  const auto& config = job.checkpoint.transformer_config();
  const auto stage_of = [&](Transformer whole) {
    return wanpar::OwnStage(std::move(whole), "blocks", stages_of(mesh, job)[mesh.index("pipeline")]);
  };
  // Data-parallel groups share the sharded weights, too: all call the transformer equally often.
  const auto sharers = job.options.dit_fsdp ? mesh.flatten({"data", "cfg", "patch", "ring", "ulysses"})
                                            : wanpar::Communicator();
  return load_sharded<Transformer>(mesh.world(), sharers, config, job.checkpoint.transformer(), options,
                                   stage_of);
}

/// The two branches of guidance are two micro-batches, unless each would gather sharded weights again.
wanpar::BlockPipelineOptions pipeline_options(const wanpar::Mesh& mesh, const Job& job) {
  using wanpar::Side;
  return {.stages = mesh["pipeline"],
          .micro_batches = job.options.dit_fsdp ? 1 : 2,
          .ranges = stages_of(mesh, job),
          .side = {Side::split, Side::split, Side::replicate}};  // of a Block: time, text, rotation
}

}  // namespace

Transformer load_transformer(const Job& job, at::Device device) {
  Transformer transformer(job.checkpoint.transformer_config());
  load(*transformer, job.checkpoint.transformer(), load_options(job, device));
  return transformer;
}

std::vector<wanpar::Axis> axes_of(const Degrees& degrees) {
  return {{"data", degrees.data},   {"cfg", degrees.cfg},   {"pipeline", degrees.pipeline},
          {"patch", degrees.patch}, {"ring", degrees.ring}, {"ulysses", degrees.ulysses}};
}

ParallelTransformer parallel_transformer(const wanpar::Mesh& mesh, const Job& job, SharedTransformer& shared,
                                         at::Device device) {
  const auto options = load_options(job, device);
  const bool is_shared = !job.options.dit_fsdp && mesh.size("pipeline") == 1;
  auto model = is_shared ? load_whole(mesh, shared) : load_part(mesh, job, options);
  ParallelTransformer made{model};
  if (mesh.size("patch") > 1) {
    auto options = patch_options(job);
    options.group = mesh["patch"], options.ulysses = mesh["ulysses"];
    made.patches = model | wanpar::patch_parallel(options);
    made.model = *made.patches;
  } else {
    made.model =
        model | wanpar::sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"], .min_share = 1});
  }
  if (mesh.size("pipeline") > 1)
    made.model = made.model | wanpar::block_pipeline(pipeline_options(mesh, job));
  return made;
}

}  // namespace wan
