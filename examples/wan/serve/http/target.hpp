#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace wan::serve {

/// The parsed target of a request, `/v1/videos/x?limit=3`.
struct Target {
  std::string path;                ///< as sent: never decoded, so it can contain no hidden characters
  std::vector<std::string> parts;  ///< segments of the path: v1, videos, x
  std::map<std::string, std::string> query;

  /// Throws Refusal for a malformed target, and for a duplicate field.
  explicit Target(std::string_view text);

  std::optional<std::string> value(const std::string& field) const;
  /// An integer from `least` to `greatest`. Throws Refusal.
  std::optional<int64_t> number(const std::string& field, int64_t least, int64_t greatest) const;
  /// One of several words. Throws Refusal.
  std::optional<std::string> one_of(const std::string& field, const std::vector<std::string>& words) const;
};

}  // namespace wan::serve
