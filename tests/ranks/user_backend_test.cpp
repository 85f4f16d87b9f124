#include <doctest/doctest.h>
#include <torch/types.h>

#include "transports.hpp"
#include "worlds.hpp"

TEST_CASE("a c10d backend of the user's own carries a group; without a factory it cannot be split") {
  auto claim = [](wanpar::Communicator group) {
    require_error([&] { group.split(0); }, "only when it was given a factory");
    require_equal(group.all_reduce(at::ones({2})).get(), at::full({2}, float(group.size())), "the sum");
  };
  CHECK_NOTHROW(user_backends(Splits::no)(claim));
}
