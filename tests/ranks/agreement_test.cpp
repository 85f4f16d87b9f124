#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/core/mesh.hpp>
#include <wanpar/transport/local.hpp>

#include <chrono>

#include "worlds.hpp"

using wanpar::Communicator;

namespace agreement_test {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// What is thrown, and that it is an AgreedError where it should be.
std::string thrown_by(const std::function<void()>& action, bool agreed = true) {
  try {
    action();
  } catch (const wanpar::AgreedError& error) {
    return error.what();
  } catch (const std::exception& error) {
    require(!agreed, fmt::format("'{}' is an AgreedError", error.what()));
    return error.what();
  }
  return "";
}

void require_says(const std::string& text, const std::string& part) {
  require(text.find(part) != std::string::npos, fmt::format("'{}' says '{}'", text, part));
}

/// On ranks that compare their calls, and on ranks that do not.
void on_either(int ranks, const std::function<void(Communicator)>& claim) {
  for (auto checks : {wanpar::Checks::automatic, wanpar::Checks::off})
    CHECK_NOTHROW(wanpar::local::run(ranks, claim, {.timeout = std::chrono::seconds(30), .checks = checks}));
}

}  // namespace

TEST_CASE("all_or_none lets no rank go on where one failed, and all say why") {
  on_worlds([](Communicator world) {
    for (int odd = 0; odd < world.size(); ++odd) {
      auto fail = [&] {
        if (world.rank() == odd) throw wanpar::Error("this rank alone");
      };
      if (world.size() == 1)
        require_error(fail, "this rank alone");
      else
        require_says(thrown_by([&] { wanpar::all_or_none(world, fail); }), "this rank alone");
      int done = 0;
      wanpar::all_or_none(world, [&] { ++done; });
      require(done == 1, "the action ran once");
    }
    if (world.size() > 1)
      require_says(thrown_by([&] {
                     wanpar::all_or_none(world, [] { throw std::runtime_error("first line\nstack trace"); });
                   }),
                   "first line");
  });
}

TEST_CASE("broadcast_text gives every rank what one makes, or why it could not") {
  on_worlds([](Communicator world) {
    for (int root = 0; root < world.size(); ++root) {
      auto text = wanpar::broadcast_text(world, root, [&] { return fmt::format("from {}", world.rank()); });
      require(text == fmt::format("from {}", root), text);
      require(wanpar::broadcast_text(world, root, [] { return ""; }).empty(), "an empty text");
      require_says(thrown_by([&] {
                     wanpar::broadcast_text(world, root,
                                            []() -> std::string { throw wanpar::Error("nothing to tell"); });
                   }),
                   "nothing to tell");
      require_says(
          thrown_by([&] { wanpar::broadcast_text(world, root, [] { return std::string(2000, 'x'); }); }),
          "of 2000 bytes");
    }
  });
}

TEST_CASE("on_any_rank, all_gather_text and require_same hear every rank") {
  on_worlds([](Communicator world) {
    auto last = world.rank() == world.size() - 1;
    require(wanpar::on_any_rank(world, last), "on the last rank");
    require(!wanpar::on_any_rank(world, false), "on none");
    auto texts = wanpar::all_gather_text(world, std::string(world.rank(), 'x'));
    for (int rank = 0; rank < world.size(); ++rank) require(texts[rank].size() == size_t(rank), "each text");
    wanpar::require_same("Test", "things", {world}, "one\ntwo");
    if (world.size() > 1)
      require_says(
          thrown_by([&] { wanpar::require_same("Test", "things", {world}, last ? "one\n" : "one"); }),
          "the ranks have different things");
    if (world.size() > 1)
      require_says(
          thrown_by(
              [&] { wanpar::require_same("Test", "things", {world}, last ? "one\nthree" : "one\ntwo"); }),
          fmt::format("Test: the ranks have different things: where rank 0 has two, rank {} has three",
                      world.size() - 1));
  });
}

TEST_CASE("a vote is refused on every rank of the grid, whoever refuses, and where paths differ") {
  on_either(6, [](Communicator world) {
    wanpar::Mesh mesh(world, {{"outer", 3}, {"inner", 2}});
    wanpar::Vote vote("Test", {mesh["inner"], mesh["outer"]});
    vote.go_on("the same");
    for (int odd = 0; odd < world.size(); ++odd) {
      if (world.rank() == odd)
        vote.refuse();
      else
        require_says(thrown_by([&] { vote.go_on("the same"); }),
                     fmt::format("Test: rank {} could not go on", odd));
      require_says(thrown_by([&] { vote.go_on(world.rank() == odd ? "left" : "right"); }),
                   "Test: the ranks took different paths");
    }
    vote.go_on("once more");
  });
}

TEST_CASE("a rank that fails tells the others at their next call, and all go on together behind it") {
  on_worlds(
      [](Communicator world) {
        auto x = at::ones({3});
        for (int odd = 0; odd < world.size(); ++odd)
          for (int collectives = 0; collectives < 3; ++collectives) {
            auto begin = Clock::now();
            for (int i = 0; i < collectives; ++i) (void)world.all_reduce(x).get();
            if (world.rank() == odd) {
              world.fail("rank " + std::to_string(odd) + " failed: of itself");
            } else {
              auto said = thrown_by([&] { (void)world.all_reduce(x).get(); });
              require_says(said, fmt::format("rank {} failed: of itself", odd));
              if (odd % 2) world.fail(said);  // which all know: nobody is told again
            }
            require(at::equal(world.all_reduce(x).get(), x * world.size()), "the group works again");
            require(seconds_since(begin) < 10, "nobody waited for the timeout");
          }
      },
      {2, 3, 4});
}

TEST_CASE("ranks that only exchange in pairs hear of a failure from one another") {
  on_worlds(
      [](Communicator world) {
        auto next = (world.rank() + 1) % world.size(),
             previous = (world.rank() + world.size() - 1) % world.size();
        auto pass_on = [&] {
          std::vector<wanpar::Send> sends{{at::ones({2}), next}};
          (void)world.exchange(std::move(sends), {{{2}, at::kFloat, previous}}).get();
        };
        pass_on();
        if (world.rank() == 0) {
          world.fail("rank 0 failed: alone");
        } else {
          std::string said;  // those beside rank 0 hear it from it, the others from those who have
          for (int i = 0; i < world.size() && said.empty(); ++i) said = thrown_by(pass_on);
          require_says(said, "rank 0 failed: alone");
        }
        pass_on();
        world.barrier();
      },
      {2, 3, 4, 6});
}

TEST_CASE(
    "some make a subgroup, others wait for all: a failure reaches each, and all are in step behind it") {
  on_worlds(
      [](Communicator world) {
        const std::vector<int> some{0, 1};
        if (world.rank() == 0)
          world.fail("rank 0 failed: alone");
        else if (world.rank() == 1)
          require_says(thrown_by([&] { world.subgroup(some); }), "rank 0 failed: alone");
        else
          require_says(thrown_by([&] { world.barrier(); }), "rank 0 failed: alone");
        world.barrier();
        if (world.rank() < 2) world.subgroup(some).barrier();
        world.barrier();
      },
      {2, 3, 4});
}

TEST_CASE("a call that could not begin is not counted: the next one is the same on every rank") {
  on_worlds(
      [](Communicator world) {
        auto x = at::ones({2});
        if (world.rank() == 0) require_error([&] { (void)world.all_gather(x, 7); }, "dimension");
        world.barrier();
      },
      {2, 3});
}

}  // namespace agreement_test
