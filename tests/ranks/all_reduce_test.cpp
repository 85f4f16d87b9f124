#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Operation;

namespace all_reduce_test {
namespace {

const std::vector<int64_t> kLengths{0, 1, 2, 5, 8, 1000, 1003};

}  // namespace

TEST_CASE("all_reduce among threads sends 2 (n - 1) times the tensor, evenly by rank") {
  for (int ranks : {2, 3, 4, 6, 8})
    wanpar::local::run(ranks, [](Communicator world) {
      for (auto length : kLengths) {
        wanpar::Recording recording;
        (void)recording(world).all_reduce(at::ones({length}, at::kDouble)).get();
        auto sent = recording.total().bytes, n = static_cast<int64_t>(world.size());
        require_equal(world.all_reduce(at::tensor({sent})).get(), at::tensor({2 * (n - 1) * length * 8}),
                      "bytes of all ranks");
        auto own = wanpar::even_sizes(length, n)[world.rank()];
        require(sent == (length - own + (n - 1) * own) * 8, fmt::format("{} bytes of a rank", sent));
      }
    });
}

}  // namespace all_reduce_test
