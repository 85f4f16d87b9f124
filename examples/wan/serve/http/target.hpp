#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace wan::serve {

/// The target of a request, `/v1/videos/x?limit=3`, taken apart.
struct Target {
  std::string path;                ///< as it was sent: nothing is decoded, so nothing can hide in it
  std::vector<std::string> parts;  ///< of the path: v1, videos, x
  std::map<std::string, std::string> query;

  /// Throws Refusal for one that is not of this form, and for a field that is there twice.
  explicit Target(std::string_view text);

  std::optional<std::string> value(const std::string& field) const;
  /// A whole number from `least` to `greatest`. Throws Refusal.
  std::optional<int64_t> number(const std::string& field, int64_t least, int64_t greatest) const;
  /// One of a few words. Throws Refusal.
  std::optional<std::string> one_of(const std::string& field, const std::vector<std::string>& words) const;
};

}  // namespace wan::serve
