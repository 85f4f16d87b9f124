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

/// Which blocks each stage has, in order.
using BlockRanges = std::vector<BlockRange>;

/// Ranges as even as whole numbers allow, the longer ones first.
BlockRanges equal_ranges(int64_t blocks, int64_t stages);

/// The ranges whose largest sum of costs is as small as contiguous ranges allow; among those, the most even
/// ones. Each has at least one block. Throws Error for costs that are negative or no numbers.
BlockRanges balanced_ranges(std::span<const double> costs, int64_t stages);

/// Throws Error unless the ranges are one a stage, none of them empty, and cover all blocks in order.
void check_ranges(const BlockRanges& ranges, int64_t blocks, int64_t stages);

/// How a stack is cut into stages: in equal numbers of blocks, …
struct Equally {};
/// … by the bytes of their parameters and buffers, …
struct ByBytes {};
/// … by a profile of seconds, or any other cost, one for each block; or in ranges that the user gives.
struct BySeconds {
  std::vector<double> seconds;
};
using BlockSplit = std::variant<Equally, ByBytes, BySeconds, BlockRanges>;

/// The ranges of these blocks. Throws Error, which begins with `strategy`, when they cannot be cut so.
BlockRanges ranges_of(std::string_view strategy, const BlockSplit& split, const BlockStack& blocks,
                      int64_t stages);

}  // namespace wanpar
