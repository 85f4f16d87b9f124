#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

namespace wan::serve {

/// A range of a file, in bytes.
struct Range {
  uint64_t first, length;
};

/// The range that a Range header requests of `size` bytes; nullopt if the header must be ignored: several
/// ranges, another unit, no range at all. Throws Refusal (416) for a range outside of the file.
std::optional<Range> range_of(std::string_view header, uint64_t size);

}  // namespace wan::serve
