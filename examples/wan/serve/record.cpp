#include "wan/serve/record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <random>

namespace wan::serve {
namespace {

constexpr const char* kPrefix = "video_";
constexpr size_t kDigits = 32;

}  // namespace

std::string new_id() {
  std::random_device random;  // the kernel's
  return fmt::format("{}{:08x}{:08x}{:08x}{:08x}", kPrefix, random(), random(), random(), random());
}

bool is_id(const std::string& text) {
  const std::string prefix = kPrefix;
  return text.size() == prefix.size() + kDigits && text.starts_with(prefix) &&
         std::all_of(text.begin() + static_cast<std::ptrdiff_t>(prefix.size()), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace wan::serve
