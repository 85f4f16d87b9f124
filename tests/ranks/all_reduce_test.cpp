#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include "transports.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Operation;
using wanpar::ReduceOp;

namespace all_reduce_test {
namespace {

const std::vector<int64_t> kLengths{0, 1, 2, 5, 8, 1000, 1003};

at::Tensor of_rank(int rank, int64_t length, at::ScalarType dtype) {
  return (at::arange(length) * (rank + 1) + rank).remainder(5).add(1).to(dtype);
}

}  // namespace

TEST_CASE("all_reduce is the same on every rank, whatever its length and that of its pieces") {
  on_transports([](Communicator world) {
    for (auto dtype : {at::kFloat, at::kLong})
      for (auto length : kLengths)
        for (auto op : {ReduceOp::sum, ReduceOp::product, ReduceOp::min, ReduceOp::max}) {
          auto result = world.all_reduce(of_rank(world.rank(), length, dtype), op).get();
          auto expected = of_rank(0, length, at::kDouble);
          for (int rank = 1; rank < world.size(); ++rank) {
            auto next = of_rank(rank, length, at::kDouble);
            expected = op == ReduceOp::sum       ? expected + next
                       : op == ReduceOp::product ? expected * next
                       : op == ReduceOp::min     ? at::minimum(expected, next)
                                                 : at::maximum(expected, next);
          }
          auto what = fmt::format("{} elements", length);
          require_equal(result, expected.to(dtype), what);
          require_equal(result, world.broadcast(result, 0).get(), what + " are rank 0's");
        }
  });
}

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

TEST_CASE("an all_reduce that all have begun ends while some of them wait for something else") {
  on_transports([](Communicator world) {
    auto pending = world.all_reduce(at::ones({100}));
    auto is_last = world.rank() == world.size() - 1;
    auto mine = is_last ? pending.get() : at::Tensor();
    world.barrier();
    if (!is_last) mine = pending.get();
    require_equal(mine, at::full({100}, static_cast<double>(world.size())), "sum");
  });
}

}  // namespace all_reduce_test
