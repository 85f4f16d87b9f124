#include "wan/generate/transformer.hpp"

#include <wanpar/strategy/sequence_parallel.hpp>

#include "wan/generate/agree.hpp"
#include "wan/generate/load_sharded.hpp"

namespace wan {
namespace {

LoadOptions load_options(const Job& job, at::Device device) {
  return {.dtype = job.dtype, .device = device, .keep_float32 = kFloat32Parameters};
}

}  // namespace

Transformer load_transformer(const Job& job, at::Device device) {
  Transformer transformer(job.checkpoint.transformer_config());
  load(*transformer, job.checkpoint.transformer(), load_options(job, device));
  return transformer;
}

std::vector<wanpar::Axis> axes_of(const Degrees& degrees) {
  return {{"data", degrees.data}, {"cfg", degrees.cfg}, {"ring", degrees.ring}, {"ulysses", degrees.ulysses}};
}

wanpar::Model parallel_transformer(const wanpar::Mesh& mesh, const Job& job, SharedTransformer& shared,
                                   at::Device device) {
  const auto load_whole = [&] {
    Transformer transformer{nullptr};
    agree(mesh.world().with_timeout(kPatience), [&] { transformer = shared.get(); });
    return wanpar::Model(std::move(transformer));
  };
  // Ranks that make other prompts share the weights too: all call the transformer equally often.
  const auto load_part = [&] {
    return load_sharded<Transformer>(job.checkpoint.transformer_config(), job.checkpoint.transformer(),
                                     load_options(job, device),
                                     mesh.flatten({"data", "cfg", "ring", "ulysses"}));
  };
  auto model = job.options.dit_fsdp ? load_part() : load_whole();
  model = model | wanpar::sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"]});
  return model;
}

}  // namespace wan
