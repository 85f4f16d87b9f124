#include <doctest/doctest.h>
#include <torch/types.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/transport/local.hpp>

#include <atomic>
#include <chrono>
#include <thread>

#include "worlds.hpp"

using wanpar::Communicator;

namespace errors_test {
namespace {

template <class Kind>
bool is_thrown(const std::function<void()>& action) {
  try {
    action();
  } catch (const Kind&) {
    return true;
  } catch (const wanpar::Error&) {
  }
  return false;
}

const auto x = [] { return at::ones({3}); };

/// How many of two ranks find a timeout where each waits for a message that the other would send behind that;
/// who gives up first has returned then. `wait` throws.
int timeouts(const std::function<void(const Communicator&)>& wait) {
  std::atomic<int> found = 0;
  wanpar::local::run(
      2, [&](Communicator world) { found += is_thrown<wanpar::TimeoutError>([&] { wait(world); }); },
      {.timeout = std::chrono::milliseconds(100), .checks = wanpar::Checks::off});
  return found;
}

wanpar::Pending<std::vector<at::Tensor>> from_other(const Communicator& world) {
  return world.exchange({}, {{{1}, at::kFloat, 1 - world.rank()}});
}

}  // namespace

TEST_CASE("an error's kind says whether the same again may succeed") {
  CHECK_NOTHROW(wanpar::local::run(2, [](Communicator world) {
    require(is_thrown<wanpar::UsageError>([&] { (void)world.broadcast(x(), 7).get(); }),
            "there is no rank 7");
    require(is_thrown<wanpar::UsageError>([&] { (void)world.subgroup(std::vector{1 - world.rank()}); }),
            "it is no member");
    require(is_thrown<wanpar::MismatchError>(
                [&] { world.rank() == 0 ? world.barrier() : (void)world.all_reduce(x()).get(); }),
            "the calls differ");
  }));
  CHECK_NOTHROW(wanpar::local::run(2, [](Communicator world) {
    if (world.rank() == 1) return;
    require(is_thrown<wanpar::PeerLostError>([&] { world.barrier(); }), "rank 1 has returned");
  }));
  CHECK(timeouts([](auto& world) { (void)from_other(world).get(); }) > 0);
}

TEST_CASE("what all ranks find alike is a mismatch too, and an error that any of them may say") {
  const auto differ = [](Communicator world) {
    const auto text = world.rank() == 0 ? "one" : "other";
    wanpar::require_same("a test", "words", {world}, text);
  };
  CHECK(is_thrown<wanpar::MismatchError>([&] { wanpar::local::run(3, differ); }));
  CHECK(is_thrown<wanpar::AgreedError>([&] { wanpar::local::run(3, differ); }));
  CHECK_THROWS_AS(wanpar::local::run(3, differ), wanpar::Error);
}

TEST_CASE("the kind of a failure in a result that was dropped is kept for the next call") {
  CHECK(timeouts([](auto& world) {
          { auto dropped = from_other(world); }
          world.barrier();
        }) > 0);
}

TEST_CASE("a rank at work is waited for, however short the timeout") {
  CHECK_NOTHROW(wanpar::local::run(3,
                                   [](Communicator world) {
                                     if (world.rank() == 0)
                                       std::this_thread::sleep_for(std::chrono::milliseconds(700));
                                     world.barrier();
                                   },
                                   {.timeout = std::chrono::milliseconds(100)}));
}

}  // namespace errors_test
