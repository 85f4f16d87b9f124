#pragma once
#include <cstdint>
#include <string_view>

namespace wanpar {

/// FNV-1a: the same number in every process, which std::hash does not promise.
inline int64_t stable_hash(std::string_view text) {
  uint64_t value = 14695981039346656037u;
  for (unsigned char c : text) value = (value ^ c) * 1099511628211u;
  return static_cast<int64_t>(value);
}

}  // namespace wanpar
