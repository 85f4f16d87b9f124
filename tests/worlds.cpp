#include "worlds.hpp"

#include <doctest/doctest.h>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>

using wanpar::Communicator;

namespace {

Communicator started_in() {
  static auto world = wanpar::connect({.timeout = std::chrono::seconds(30)});
  return world;
}

}  // namespace

bool is_one_of_several_processes() { return started_in().size() > 1; }

void on_worlds(const std::function<void(Communicator)>& claim, const std::vector<int>& sizes) {
  if (is_one_of_several_processes()) {
    if (std::ranges::count(sizes, started_in().size())) CHECK_NOTHROW(claim(started_in()));
    return;
  }
  for (int size : sizes) {
    INFO(size, " ranks");
    CHECK_NOTHROW(wanpar::local::run(size, claim, {.timeout = std::chrono::seconds(30)}));
  }
}
