#include <doctest/doctest.h>
#include <torch/nn.h>
#include <wanpar/core/error.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/block_ranges.hpp>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

using wanpar::BlockRanges;

namespace block_ranges_test {
namespace {

double largest(const BlockRanges& ranges, const std::vector<double>& costs) {
  double most = 0;
  for (auto& r : ranges)
    most = std::max(most, std::accumulate(costs.begin() + r.begin, costs.begin() + r.end, 0.0));
  return most;
}

/// The smallest largest range that any cut has, by trying all of them.
double smallest_largest(const std::vector<double>& costs, int64_t stages) {
  std::function<double(int64_t, int64_t)> from = [&](int64_t begin, int64_t left) {
    auto n = static_cast<int64_t>(costs.size());
    if (left == 1) return std::accumulate(costs.begin() + begin, costs.end(), 0.0);
    double best = 1e300, sum = 0;
    for (auto end = begin + 1; end + left - 1 <= n; ++end) {
      sum += costs[end - 1];
      best = std::min(best, std::max(sum, from(end, left - 1)));
    }
    return best;
  };
  return from(0, stages);
}

}  // namespace

TEST_CASE("equal ranges differ by one block at most, the longer ones first") {
  CHECK((wanpar::equal_ranges(7, 3) == BlockRanges{{0, 3}, {3, 5}, {5, 7}}));
  CHECK((wanpar::equal_ranges(4, 4) == BlockRanges{{0, 1}, {1, 2}, {2, 3}, {3, 4}}));
  CHECK_THROWS_WITH_AS(wanpar::equal_ranges(2, 3),
                       doctest::Contains("2 blocks cannot be spread over 3 stages"), wanpar::Error);
}

TEST_CASE("balanced ranges have the smallest largest sum that any contiguous cut has") {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> costs(1 + random() % 10);
    for (auto& cost : costs) cost = static_cast<double>(random() % 20) * (trial % 2 ? 1 : 0.1);
    for (int64_t stages = 1; stages <= static_cast<int64_t>(costs.size()); ++stages) {
      auto ranges = wanpar::balanced_ranges(costs, stages);
      CHECK_NOTHROW(wanpar::check_ranges(ranges, static_cast<int64_t>(costs.size()), stages));
      CHECK(largest(ranges, costs) == doctest::Approx(smallest_largest(costs, stages)));
    }
  }
}

TEST_CASE("a greedy cut would be worse, and among the best cuts the most even one is taken") {
  CHECK((wanpar::balanced_ranges(std::vector<double>{2, 2, 2, 5, 5}, 3) ==
         BlockRanges{{0, 3}, {3, 4}, {4, 5}}));
  CHECK((wanpar::balanced_ranges(std::vector<double>{9, 1, 1, 1, 1}, 3) ==
         BlockRanges{{0, 1}, {1, 3}, {3, 5}}));
  CHECK_THROWS_AS(wanpar::balanced_ranges(std::vector<double>{1, -1}, 2), wanpar::Error);
}

TEST_CASE("ranges that the user gives are contiguous, not empty, and cover all blocks") {
  auto refused = [](BlockRanges ranges, const char* why) {
    CHECK_THROWS_WITH_AS(wanpar::check_ranges(ranges, 6, 2), doctest::Contains(why), wanpar::Error);
  };
  CHECK_NOTHROW(wanpar::check_ranges({{0, 5}, {5, 6}}, 6, 2));
  refused({{0, 6}}, "1 ranges of blocks are given for 2 stages");
  refused({{0, 3}, {4, 6}}, "should begin at 3");
  refused({{0, 6}, {6, 6}}, "at least one block");
  refused({{0, 3}, {3, 5}}, "end at 5, but there are 6");
}

TEST_CASE("a stack is cut by the bytes that it lists, or by a profile of its length") {
  auto block = [](int64_t n) { return wanpar::NamedTensors{{"w", torch::zeros({n})}}; };
  wanpar::BlockStack blocks{4, {}, [&](int64_t i) { return block(i == 0 ? 100 : 10); }};
  CHECK((wanpar::ranges_of("Strategy", wanpar::ByBytes{}, blocks, 2) == BlockRanges{{0, 1}, {1, 4}}));
  CHECK((wanpar::ranges_of("Strategy", wanpar::BySeconds{{1, 1, 1, 3}}, blocks, 2) ==
         BlockRanges{{0, 3}, {3, 4}}));
  CHECK_THROWS_WITH_AS(wanpar::ranges_of("Strategy", wanpar::BySeconds{{1, 1}}, blocks, 2),
                       "Strategy: a profile of 2 blocks is given, but there are 4; give a number for each",
                       wanpar::Error);
  blocks.tensors = nullptr;
  CHECK_THROWS_WITH_AS(wanpar::ranges_of("Strategy", wanpar::ByBytes{}, blocks, 2),
                       doctest::Contains("BlockStack::tensors"), wanpar::Error);
}

}  // namespace block_ranges_test
