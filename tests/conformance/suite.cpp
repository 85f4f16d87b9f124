#include "suite.hpp"

#include "worlds.hpp"

void conform(const Strategy& strategy, const std::vector<Subject>& modules, const std::vector<int>& sizes) {
  for (auto& subject : modules)
    on_worlds(
        [&](wanpar::Communicator world) { wanpar::conformance::check_strategy(strategy, world, {subject}); },
        sizes);
}
