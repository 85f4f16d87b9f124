#pragma once
#include <wanpar/core/error.hpp>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace wanpar {

/// Which keys may be duplicated (the last one counts): none, or, as in the safetensors library, the names of
/// tensors and metadata in a header.
enum class Repeats { none, of_tensors };

/// The JSON object in `text`. Throws Error, starting with `where`, for duplicate keys, deep nesting, and
/// anything but an object.
nlohmann::json parse_json(std::string_view text, const std::string& where, Repeats repeats = Repeats::none);

/// As parse_json, for a file.
nlohmann::json read_json(const std::filesystem::path& file);

/// A value for an error message, truncated if it is long.
std::string shown(const nlohmann::json& value);

/// The value of `key`. Throws Error if it is missing or of another type.
template <class T>
T value_at(const nlohmann::json& object, const std::string& key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) throw Error(where + ": '" + key + "' is missing");
  try {
    return found->get<T>();
  } catch (const nlohmann::json::exception&) {
    throw Error(where + ": '" + key + "' has a value of the wrong type, " + shown(*found));
  }
}

}  // namespace wanpar
