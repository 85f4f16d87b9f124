#include <doctest/doctest.h>
#include <torch/types.h>
#include <wanpar/extend/conformance/transport.hpp>
#include <wanpar/transport/local.hpp>

#include "transports.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::ReduceOp;

namespace communicator_test {

TEST_CASE("every transport does what a transport must do") {
  for (auto& claim : wanpar::conformance::transport_claims())
    SUBCASE(claim.name.c_str()) on_transports(claim.check);
}

TEST_CASE("a claim that does not hold is told by its name") {
  auto world = [](Communicator whole) {
    auto timeout = std::chrono::milliseconds(20);  // ends the wait for the other rank, which makes no call
    auto alone = Communicator(whole.transport(), timeout);
    if (whole.rank() == 0)
      require_error([&] { wanpar::conformance::check_transport(alone); },
                    "of 2 ranks, rank 0: 'all_reduce gives every rank the same reduction, in each dtype' "
                    "does not hold");
  };
  CHECK_NOTHROW(wanpar::local::run(2, world, {.checks = wanpar::Checks::off}));
}

TEST_CASE("true on some rank is true and on all is true, however many there are") {
  auto claim = [](Communicator world) {
    auto bools = [](std::vector<int64_t> values) { return at::tensor(values).to(at::kBool); };
    auto mine = bools({1, world.rank() == 3, 0});
    require_equal(world.all_reduce(mine).get(), bools({1, 1, 0}), "any");
    require_equal(world.all_reduce(mine, ReduceOp::product).get(), bools({1, 0, 0}), "all");
    require_equal(world.reduce_scatter(at::ones({world.size()}, at::kBool)).get(), bools({1}), "one");
  };
  CHECK_NOTHROW(wanpar::local::run(256, claim, {.checks = wanpar::Checks::off}));
}

}  // namespace communicator_test
