#pragma once
#include <cstdint>
#include <string_view>

namespace wanpar {

/// One step of FNV-1a.
inline uint64_t hashed_with(uint64_t value, uint64_t next) { return (value ^ next) * 1099511628211u; }

/// FNV-1a: the same number in every process, which std::hash does not promise.
inline int64_t stable_hash(std::string_view text) {
  uint64_t value = 14695981039346656037u;
  for (unsigned char c : text) value = hashed_with(value, c);
  return static_cast<int64_t>(value);
}

}  // namespace wanpar
