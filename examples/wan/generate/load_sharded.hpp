#pragma once
#include <functional>
#include <utility>
#include <wanpar/module/deferred.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "wan/generate/phase.hpp"
#include "wan/io/load.hpp"

namespace wan {

/// Collective over the world. A module with weights sharded over a group: constructed deferred, then each
/// rank loads its shards from the files. No rank ever holds, or reads, all weights. `part_of(module)` is the
/// part of the module that this rank's group holds.
template <class Module, class Config, class PartOf = std::identity>
wanpar::Model load_sharded(const wanpar::Communicator& world, const wanpar::Communicator& group,
                           const Config& config, const Weights& weights, const LoadOptions& options,
                           const PartOf& part_of = {}) {
  Module module{nullptr};
  Ranges ranges;
  all_in_phase(world, "making room for its part of the weights", [&] {
    module = wanpar::deferred([&] {
      Module empty(config);
      prepare(*empty, options);
      return empty;
    });
    ranges = ranges_for(*module, weights, options);
  });
  auto sharded = part_of(std::move(module)) | wanpar::sharded_params({.group = group, .prefetch = 1});
  all_in_phase(world, "loading its part of the weights", [&] { sharded.load(ranges); });
  return sharded;
}

}  // namespace wan
