#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

namespace wan::serve {

/// A part of a file, in bytes.
struct Range {
  uint64_t first, length;
};

/// The part that a Range header asks for of `size` bytes; nothing where it is to be ignored: several parts,
/// another unit, no range at all. Throws Refusal (416) for one that lies outside.
std::optional<Range> range_of(std::string_view header, uint64_t size);

}  // namespace wan::serve
