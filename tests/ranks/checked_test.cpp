#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <chrono>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::ReduceOp;

namespace checked_test {
namespace {

using Step = std::function<void(Communicator)>;

/// Two ranks of three do what they should, the last one something else: every rank must say so, with both
/// sides.
void mismatch(const Step& usual, const Step& other, const std::string& usual_text,
              const std::string& other_text) {
  INFO(usual_text, " against ", other_text);
  CHECK_NOTHROW(wanpar::local::run(3, [&](Communicator world) {
    bool odd = world.rank() == 2;
    try {
      (odd ? other : usual)(world);
    } catch (const wanpar::Error& error) {
      std::string text = error.what();
      for (auto& part :
           {std::string("make different calls"), usual_text, other_text, std::string("checked_test.cpp:")})
        require(text.find(part) != std::string::npos, fmt::format("'{}' says '{}'", text, part));
      return;
    }
    throw wanpar::Error("no mismatch was found");
  }));
}

const auto x = [] { return at::ones({3, 4}); };

}  // namespace

TEST_CASE("ranks that make different calls are told both sides and both places, before any data moves") {
  Step sum = [](Communicator c) { (void)c.all_reduce(x()).get(); };
  auto sum_text = "all_reduce(sum, Float[3, 4]) #1";
  mismatch(
      sum, [](Communicator c) { (void)c.all_reduce(x(), ReduceOp::max).get(); }, sum_text,
      "all_reduce(max, Float[3, 4]) #1");
  mismatch(
      sum, [](Communicator c) { (void)c.all_reduce(x().to(at::kInt)).get(); }, sum_text,
      "all_reduce(sum, Int[3, 4]) #1");
  mismatch(
      sum, [](Communicator c) { (void)c.all_reduce(x().t()).get(); }, sum_text,
      "all_reduce(sum, Float[4, 3]) #1");
  mismatch(
      sum, [](Communicator c) { (void)c.all_reduce(at::ones({20})).get(); }, sum_text,
      "all_reduce(sum, Float[20]) #1");
  mismatch(
      sum, [](Communicator c) { (void)c.broadcast(x(), 0).get(); }, sum_text,
      "broadcast(root 0, Float[3, 4]) #1");
  mismatch(
      sum, [](Communicator c) { c.barrier(); }, sum_text, "barrier() #1");
  mismatch(
      sum, [](Communicator c) { (void)c.all_gather(x()).get(); }, sum_text, "all_gather(Float[9, 4]) #1");
  mismatch([](Communicator c) { (void)c.broadcast(x(), 0).get(); },
           [](Communicator c) { (void)c.broadcast(x(), 1).get(); }, "root 0", "root 1");
  mismatch([](Communicator c) { (void)c.reduce_scatter(x()).get(); },
           [](Communicator c) { (void)c.reduce_scatter(x(), 0, {}, ReduceOp::mean).get(); },
           "reduce_scatter(sum, Float[3, 4]) #1", "reduce_scatter(mean, Float[3, 4]) #1");
  mismatch(
      [](Communicator c) {
        c.subgroup(std::vector{0, 1, 2});
      },
      [](Communicator c) {
        c.subgroup(std::vector{2, 1, 0});
      },
      "subgroup() of ranks [0, 1, 2]", "subgroup() of ranks [2, 1, 0]");
}

TEST_CASE("calls in another order are found") {
  mismatch(
      [](Communicator c) {
        (void)c.all_gather(x()).get();
        c.barrier();
      },
      [](Communicator c) {
        c.barrier();
        (void)c.all_gather(x()).get();
      },
      "all_gather(Float[9, 4]) #1", "barrier() #1");
}

TEST_CASE("uneven sizes that disagree are found") {
  std::vector<int64_t> usual{3, 1, 2}, other{2, 2, 2};
  mismatch([&](Communicator c) { (void)c.all_gather(at::ones({usual[c.rank()]}), 0, usual).get(); },
           [&](Communicator c) { (void)c.all_gather(at::ones({other[c.rank()]}), 0, other).get(); },
           "sizes [3, 1, 2]", "sizes [2, 2, 2]");
}

TEST_CASE("an exchange is compared between each pair: dtype, shape and number of messages") {
  auto send = [](at::Tensor tensor) {
    return [tensor](Communicator c) {
      if (c.rank() == 2) (void)c.exchange({{tensor, 0}}, {}).get();
    };
  };
  auto expect = [](const Step& other, const std::string& came) {
    wanpar::local::run(3, [&](Communicator c) {
      if (c.rank() == 1) return;  // not concerned
      auto receive = [&] { (void)c.exchange({}, {{{3, 4}, at::kFloat, 2}}).get(); };
      auto part = fmt::format("2 to 0: {}", came);
      require_error([&] { c.rank() == 0 ? receive() : other(c); },
                    c.rank() == 0 ? part : "2 to 0: Float[3, 4]");
    });
  };
  CHECK_NOTHROW(expect(send(at::ones({3, 4}, at::kInt)), "Int[3, 4]"));
  CHECK_NOTHROW(expect(send(at::ones({4, 3})), "Float[4, 3]"));
  CHECK_NOTHROW(expect(
      [](Communicator c) {
        (void)c.exchange({{x(), 0}, {x(), 0}}, {}).get();
      },
      "Float[3, 4] + Float[3, 4]"));
}

TEST_CASE("a rank that fails, that has ended or that does not come is named to those who wait for it") {
  using std::chrono::milliseconds;
  auto fails = [](Communicator c) {
    if (c.rank() == 1) throw wanpar::Error("the disk of rank 1 is full");
    require_error([&] { c.barrier(); }, "rank 1 failed first: the disk of rank 1 is full");
    require_error([&] { (void)c.all_gather(x()).get(); }, "all_gather(Float[9, 4]) #2");
  };
  CHECK_THROWS_WITH_AS(wanpar::local::run(3, fails), "the disk of rank 1 is full", wanpar::Error);

  CHECK_NOTHROW(wanpar::local::run(2, [](Communicator c) {
    if (c.rank() == 1) return;
    require_error([&] { c.barrier(); }, "rank 0 of 2, barrier() #1, called at checked_test.cpp");
    require_error([&] { c.barrier(); }, "rank 1 has already returned and will never come");
  }));

  // Each waits for a message that the other would send behind that. Who gives up first has returned then.
  std::vector<std::string> said(2);
  CHECK_NOTHROW(wanpar::local::run(2,
                                   [&](Communicator c) {
                                     try {
                                       (void)c.exchange({}, {{{1}, at::kFloat, 1 - c.rank()}}).get();
                                     } catch (const wanpar::Error& error) {
                                       said[c.rank()] = error.what();
                                     }
                                   },
                                   {.timeout = milliseconds(100), .checks = wanpar::Checks::off}));
  CHECK(std::ranges::any_of(
      said, [](auto& text) { return text.find(" did not come within 0.1 s") != std::string::npos; }));
  for (int rank = 0; rank < 2; ++rank)
    CHECK(said[rank].find(fmt::format(": rank {} ", 1 - rank)) != std::string::npos);
}

TEST_CASE("a failure in a result that was dropped is thrown by the group's next call") {
  CHECK_NOTHROW(wanpar::local::run(
      2,
      [&](Communicator c) {
        auto wait = [&] { return c.exchange({}, {{{1}, at::kFloat, 1 - c.rank()}}); };
        { auto dropped = wait(); }
        require_error([&] { c.barrier(); }, "failed earlier, in a transfer whose result was dropped");
        require_error([&] { (void)wait().get(); }, fmt::format(": rank {} ", 1 - c.rank()));  // by that alone
      },
      {.timeout = std::chrono::milliseconds(100), .checks = wanpar::Checks::off}));
}

TEST_CASE("the timeout begins with the call: results that are dropped together wait together") {
  std::chrono::duration<double> took{};
  CHECK_NOTHROW(
      wanpar::local::run(2,
                         [&](Communicator c) {
                           auto begin = std::chrono::steady_clock::now();
                           {
                             std::vector<wanpar::Pending<std::vector<at::Tensor>>> dropped;
                             for (int i = 0; i < 20; ++i)
                               dropped.push_back(c.exchange({}, {{{1}, at::kFloat, 1 - c.rank()}}));
                           }
                           if (c.rank() == 0) took = std::chrono::steady_clock::now() - begin;
                         },
                         {.timeout = std::chrono::milliseconds(300), .checks = wanpar::Checks::off}));
  CHECK(took.count() < 3);
}

}  // namespace checked_test
