#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/block_ranges.hpp>

namespace wanpar {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

void check_counts(int64_t blocks, int64_t stages) {
  if (stages < 1 || blocks < stages)
    throw UsageError(
        fmt::format("{} blocks cannot be spread over {} stages, each of which needs one; take fewer stages",
                    blocks, stages));
}

/// The best split of the first n blocks into a number of ranges: its objective, and the start of the last
/// range.
struct Best {
  double worth = kNever;
  int64_t begin = 0;
};

/// Minimises an objective defined range by range: `join(objective of the ranges before, cost of the last
/// one)`.
template <class Join>
BlockRanges best_ranges(std::span<const double> costs, int64_t stages, const Join& join, double start) {
  auto blocks = static_cast<int64_t>(costs.size());
  std::vector<double> until(blocks + 1, 0);
  for (int64_t i = 0; i < blocks; ++i) until[i + 1] = until[i] + costs[i];

  std::vector<std::vector<Best>> best(stages + 1, std::vector<Best>(blocks + 1));
  best[0][0].worth = start;
  for (int64_t stage = 1; stage <= stages; ++stage)
    for (int64_t end = stage; end <= blocks; ++end)
      for (int64_t begin = stage - 1; begin < end; ++begin) {
        auto worth = join(best[stage - 1][begin].worth, until[end] - until[begin]);
        if (worth < best[stage][end].worth) best[stage][end] = {worth, begin};
      }

  BlockRanges ranges(stages);
  for (int64_t stage = stages, end = blocks; stage > 0; end = ranges[--stage].begin)
    ranges[stage - 1] = {best[stage][end].begin, end};
  return ranges;
}

double sum(std::span<const double> costs, BlockRange range) {
  double total = 0;
  for (auto i = range.begin; i < range.end; ++i) total += costs[i];
  return total;
}

double bytes(const NamedTensors& tensors) {
  double total = 0;
  for (auto& [name, tensor] : tensors)
    total += static_cast<double>(tensor.numel()) * static_cast<double>(tensor.element_size());
  return total;
}

}  // namespace

BlockRanges equal_ranges(int64_t blocks, int64_t stages) {
  check_counts(blocks, stages);
  BlockRanges ranges;
  int64_t begin = 0;
  for (auto size : even_sizes(blocks, stages)) {
    ranges.push_back({begin, begin + size});
    begin += size;
  }
  return ranges;
}

BlockRanges balanced_ranges(std::span<const double> costs, int64_t stages) {
  check_counts(static_cast<int64_t>(costs.size()), stages);
  for (size_t i = 0; i < costs.size(); ++i)
    if (!std::isfinite(costs[i]) || costs[i] < 0)
      throw UsageError(fmt::format("block {} costs {}; a cost is a number of at least 0", i, costs[i]));

  auto largest = [](double before, double last) { return std::max(before, last); };
  double bound = 0;
  for (auto& range : best_ranges(costs, stages, largest, 0)) bound = std::max(bound, sum(costs, range));
  // Many splits attain the smallest maximum: the sum of squares selects the most even one. The tolerance
  // allows for rounding of prefix sums.
  bound *= 1 + 1e-12;
  auto evenness = [bound](double before, double last) {
    return last > bound ? kNever : before + last * last;
  };
  return best_ranges(costs, stages, evenness, 0);
}

void check_ranges(const BlockRanges& ranges, int64_t blocks, int64_t stages) {
  if (static_cast<int64_t>(ranges.size()) != stages)
    throw UsageError(
        fmt::format("{} ranges of blocks are given for {} stages; give one for each", ranges.size(), stages));
  int64_t next = 0;
  for (auto& range : ranges) {
    if (range.begin != next || range.end <= range.begin)
      throw UsageError(
          fmt::format("the range of blocks [{}, {}) should begin at {} and hold at least one block; let each "
                      "begin where the one before ends",
                      range.begin, range.end, next));
    next = range.end;
  }
  if (next != blocks)
    throw UsageError(fmt::format(
        "the ranges of blocks end at {}, but there are {} blocks; let the last one end there", next, blocks));
}

BlockRanges ranges_of(std::string_view strategy, const BlockSplit& split, const BlockStack& blocks,
                      int64_t stages) try {
  check_counts(blocks.size, stages);
  if (auto* given = std::get_if<BlockRanges>(&split)) {
    check_ranges(*given, blocks.size, stages);
    return *given;
  }
  if (auto* profile = std::get_if<BySeconds>(&split)) {
    if (static_cast<int64_t>(profile->seconds.size()) != blocks.size)
      throw UsageError(
          fmt::format("a profile of {} blocks is given, but there are {}; give a number for each",
                      profile->seconds.size(), blocks.size));
    return balanced_ranges(profile->seconds, stages);
  }
  if (std::holds_alternative<Equally>(split)) return equal_ranges(blocks.size, stages);
  if (!blocks.tensors)
    throw UsageError(
        "blocks cannot be cut by bytes when their stack does not list their parameters; set "
        "BlockStack::tensors");
  std::vector<double> costs;
  for (int64_t i = 0; i < blocks.size; ++i) costs.push_back(bytes(blocks.tensors(i)));
  return balanced_ranges(costs, stages);
} catch (const Error& error) {
  throw UsageError(fmt::format("{}: {}", strategy, error.what()));
}

}  // namespace wanpar
