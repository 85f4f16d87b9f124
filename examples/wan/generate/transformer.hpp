#pragma once
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/patch_parallel.hpp>

#include <optional>

#include "wan/generate/job.hpp"
#include "wan/generate/shared_transformer.hpp"

namespace wan {

/// Loads the full transformer in the job's dtype and on its device.
Transformer load_transformer(const Job& job, at::Device device);

/// The axes of the ranks, outermost first.
std::vector<wanpar::Axis> axes_of(const Degrees& degrees);

/// A transformer wrapped in its strategies.
struct ParallelTransformer {
  wanpar::Model model;
  /// Its PatchParallel wrapper, if the job uses patches: for update_step().
  std::optional<wanpar::PatchParallel<wanpar::Model>> patches = {};
};

/// Collective. The transformer on all ranks of the mesh, wrapped in the job's strategies.
ParallelTransformer parallel_transformer(const wanpar::Mesh& mesh, const Job& job, SharedTransformer& shared,
                                         at::Device device);

}  // namespace wan
