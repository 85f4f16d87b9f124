#include <doctest/doctest.h>

#include "strategies.hpp"

namespace strategies_test {

TEST_CASE("a module wrapped in a strategy does what it does unwrapped") {
  for (auto& strategy : strategies()) SUBCASE(strategy.name.c_str()) conform(strategy);
}

TEST_CASE("a module wrapped in several strategies does what it does unwrapped") {
  for (auto& composition : compositions()) SUBCASE(composition.name.c_str()) conform(composition);
}

}  // namespace strategies_test
