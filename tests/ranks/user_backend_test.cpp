#include <doctest/doctest.h>
#include <torch/types.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "transports.hpp"
#include "worlds.hpp"

namespace user_backend_test {

TEST_CASE("a c10d backend of the user's own carries a group; without a factory it cannot be split") {
  auto claim = [](wanpar::Communicator group) {
    require_error([&] { group.split(0); }, "only when it was given a factory");
    require_equal(group.all_reduce(at::ones({2})).get(), at::full({2}, float(group.size())), "the sum");
  };
  CHECK_NOTHROW(user_backends(Splits::no)(claim));
}

TEST_CASE("a new group that one rank drops at once is connected on all others") {
  std::atomic<bool> over = false;
  std::vector<std::jthread> busy;  // so that ranks wake late
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i)
    busy.emplace_back([&] {
      while (!over) continue;
    });
  auto claim = [](wanpar::Communicator world) {
    std::vector<int> all(world.size());
    std::iota(all.begin(), all.end(), 0);
    for (int i = 0; i < 50; ++i) world.subgroup(all);
  };
  CHECK_NOTHROW(user_backends(Splits::yes)(claim));
  over = true;
}

}  // namespace user_backend_test
