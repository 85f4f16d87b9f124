#pragma once
#include <utility>
#include <wanpar/module/deferred.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "wan/generate/agree.hpp"
#include "wan/io/load.hpp"

namespace wan {

/// Collective. A module whose weights are shared out over a group: constructed without memory, then filled by
/// each rank with its own part of the files. No rank ever holds, or reads, all of them.
template <class Module, class Config>
wanpar::Model load_sharded(const Config& config, const Weights& weights, const LoadOptions& options,
                           const wanpar::Communicator& group) {
  Module module{nullptr};
  Ranges ranges;
  agree(group, [&] {
    module = wanpar::deferred([&] {
      Module empty(config);
      prepare(*empty, options);
      return empty;
    });
    ranges = ranges_for(*module, weights, options);
  });
  auto sharded = std::move(module) | wanpar::sharded_params({.group = group, .prefetch = 1});
  agree(group.with_timeout(kPatience), [&] { sharded.load(ranges); });
  return sharded;
}

}  // namespace wan
