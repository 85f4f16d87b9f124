#include "wan/cli/degrees.hpp"

#include <doctest/doctest.h>

#include <wanpar/core/error.hpp>

using wan::choose_degrees;
using wan::Degrees;
using wan::Guidance;
using wan::RequestedDegrees;

namespace degrees_test {

TEST_CASE("degrees that nobody gave: guidance first, then heads, then the ring") {
  const auto chosen = [](int64_t world, int64_t heads) {
    return choose_degrees(world, heads, {}, Guidance::on);
  };
  CHECK((chosen(1, 12) == Degrees{1, 1, 1}));
  CHECK((chosen(2, 12) == Degrees{2, 1, 1}));
  CHECK((chosen(3, 12) == Degrees{1, 3, 1}));
  CHECK((chosen(8, 12) == Degrees{2, 4, 1}));
  CHECK((chosen(16, 12) == Degrees{2, 4, 2}));  // 8 would share 12 heads unevenly
  CHECK((chosen(5, 12) == Degrees{1, 5, 1}));   // no even share: an uneven one
  CHECK((chosen(13, 12) == Degrees{1, 1, 13}));
}

TEST_CASE("without guidance all ranks share one branch") {
  CHECK((choose_degrees(8, 40, {}, Guidance::off) == Degrees{1, 8, 1}));
  CHECK_THROWS_WITH_AS(choose_degrees(2, 40, {.cfg = 2}, Guidance::off), doctest::Contains("--cfg_size 2"),
                       wanpar::Error);
}

TEST_CASE("given degrees are kept and the others fill the world") {
  CHECK((choose_degrees(4, 12, {.ring = 4}, Guidance::on) == Degrees{1, 1, 4}));
  CHECK((choose_degrees(4, 12, {.cfg = 1}, Guidance::on) == Degrees{1, 4, 1}));
  CHECK((choose_degrees(8, 12, {.cfg = 1, .ulysses = 2}, Guidance::on) == Degrees{1, 2, 4}));
}

TEST_CASE("degrees that do not multiply to the world size are refused with the numbers") {
  CHECK_THROWS_WITH_AS(choose_degrees(3, 12, {1, 2, 2}, Guidance::on),
                       "--cfg_size 1 x --ulysses_size 2 x --ring_size 2 is 4, but 3 ranks were started",
                       wanpar::Error);
  CHECK_THROWS_WITH_AS(choose_degrees(1, 12, {.ring = 2}, Guidance::on),
                       "--cfg_size 1 x --ulysses_size 1 x --ring_size 2 is 2, but 1 rank was started",
                       wanpar::Error);
  CHECK_THROWS_AS(choose_degrees(8, 12, {1, 2, 2}, Guidance::on), wanpar::Error);
}

TEST_CASE("prompts and blocks are shared on request only, and the rest of the world as ever") {
  CHECK((choose_degrees(8, 12, {.data = 2}, Guidance::on) == Degrees{.cfg = 2, .ulysses = 2, .data = 2}));
  CHECK((choose_degrees(3, 12, {.data = 3}, Guidance::on) == Degrees{.data = 3}));
  CHECK((choose_degrees(4, 12, {.cfg = 1, .pipeline = 2}, Guidance::on) ==
         Degrees{.ulysses = 2, .pipeline = 2}));
  CHECK((choose_degrees(12, 12, {.data = 2, .pipeline = 3}, Guidance::on) ==
         Degrees{.cfg = 2, .data = 2, .pipeline = 3}));
  CHECK_THROWS_WITH_AS(
      choose_degrees(3, 12, {.data = 2, .pipeline = 2}, Guidance::on),
      "--data_parallel_size 2 x --pipeline_size 2 x --cfg_size 1 x --ulysses_size 1 x --ring_size 1 is 4, "
      "but 3 ranks were started",
      wanpar::Error);
}

TEST_CASE("patches leave the rest of the world to guidance and heads, and none to a ring") {
  CHECK((choose_degrees(8, 12, {.patch = 2}, Guidance::on) == Degrees{.cfg = 2, .ulysses = 2, .patch = 2}));
  CHECK((choose_degrees(2, 12, {.patch = 2}, Guidance::on) == Degrees{.patch = 2}));
  CHECK_THROWS_WITH_AS(
      choose_degrees(26, 12, {.cfg = 1, .patch = 2}, Guidance::on),
      "--patch_parallel_size 2 x --cfg_size 1 x --ulysses_size 1 x --ring_size 1 is 2, but 26 "
      "ranks were started",
      wanpar::Error);
  CHECK_THROWS_WITH_AS(choose_degrees(4, 12, {.ring = 2, .patch = 2}, Guidance::on),
                       doctest::Contains("--ring_size 2 with --patch_parallel_size 2"), wanpar::Error);
}

TEST_CASE("degrees are described in one line") {
  CHECK(wan::describe({.data = 2, .pipeline = 3}) ==
        "6 ranks: 2 prompts at a time x 1 guidance group x 3 pipeline stages x 1 Ulysses x 1 ring");
  CHECK(wan::describe({.patch = 2}) == "2 ranks: 1 guidance group x 2 patches x 1 Ulysses x 1 ring");
  CHECK(wan::describe({2, 2, 1}) == "4 ranks: 2 guidance groups x 2 Ulysses x 1 ring");
}

}  // namespace degrees_test
