#include <doctest/doctest.h>
#include <torch/types.h>

#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <wanpar/core/communicator.hpp>
#include <wanpar/transport/c10d.hpp>

#include "worlds.hpp"

TEST_CASE("a c10d backend of the user's own carries a communicator; without a factory it cannot be split") {
  auto store = c10::make_intrusive<c10d::HashStore>();
  auto rank_main = [&](int rank) {
    auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
    auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, 2, options);
    wanpar::Communicator group(wanpar::c10d_transport(backend));
    require_equal(group.all_gather(at::full({2}, 1.0 + rank)).get(), at::tensor({1.0f, 1.0f, 2.0f, 2.0f}),
                  "gathered");
    require_equal(group.all_reduce(at::full({2}, 1.0 + rank)).get(), at::full({2}, 3.0), "sum");
    std::vector<int> both{0, 1};
    require_error([&] { group.subgroup(both); }, "only when it was given a factory");
    group.barrier();
  };
  std::exception_ptr failure;
  std::thread other([&] {
    try {
      rank_main(1);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  CHECK_NOTHROW(rank_main(0));
  other.join();
  CHECK(failure == nullptr);
}
