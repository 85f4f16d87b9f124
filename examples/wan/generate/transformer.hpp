#pragma once
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/patch_parallel.hpp>

#include <optional>

#include "wan/generate/job.hpp"
#include "wan/generate/shared_transformer.hpp"

namespace wan {

/// Loads the whole transformer as the job wants it: its dtype and device.
Transformer load_transformer(const Job& job, at::Device device);

/// The axes of the ranks, outermost first.
std::vector<wanpar::Axis> axes_of(const Degrees& degrees);

/// A transformer in its strategies.
struct ParallelTransformer {
  wanpar::Model model;
  /// The same as far as patches go, where they are dealt: to be told the steps.
  std::optional<wanpar::PatchParallel<wanpar::Model>> patches = {};
};

/// Collective. The transformer over all ranks of the mesh, in the strategies that the job asks for.
ParallelTransformer parallel_transformer(const wanpar::Mesh& mesh, const Job& job, SharedTransformer& shared,
                                         at::Device device);

}  // namespace wan
