#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

namespace wanpar {

struct BlockStack;

/// The blocks [begin, end) of a stack.
struct BlockRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const BlockRange&) const = default;
};

/// The blocks of each stage, in order.
using BlockRanges = std::vector<BlockRange>;

/// Ranges of equal size, or off by one, the longer ones first.
BlockRanges equal_ranges(int64_t blocks, int64_t stages);

/// The contiguous ranges that minimise the largest sum of costs; among those, the most even ones. Each has at
/// least one block. Throws Error for costs that are negative or not finite.
BlockRanges balanced_ranges(std::span<const double> costs, int64_t stages);

/// Throws Error unless there is one range per stage, none is empty, and they cover all blocks in order.
void check_ranges(const BlockRanges& ranges, int64_t blocks, int64_t stages);

/// How blocks are assigned to stages: in equal numbers, …
struct Equally {};
/// … by the bytes of their parameters and buffers, …
struct ByBytes {};
/// … by measured seconds (or any other cost) per block, or in ranges given by the user.
struct BySeconds {
  std::vector<double> seconds;
};
using BlockSplit = std::variant<Equally, ByBytes, BySeconds, BlockRanges>;

/// The ranges of these blocks. Throws Error, starting with `strategy`, if they cannot be split so.
BlockRanges ranges_of(std::string_view strategy, const BlockSplit& split, const BlockStack& blocks,
                      int64_t stages);

}  // namespace wanpar
