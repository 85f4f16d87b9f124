#pragma once
#include <wanpar/core/error.hpp>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace wanpar {

/// Keys that may occur twice, the last one then counting: none, or, as the library safetensors has it, names
/// of tensors and of metadata in a header.
enum class Repeats { none, of_tensors };

/// The JSON object in `text`, with duplicate keys, deep nesting and anything but an object refused.
/// Throws Error, which begins with `where`.
nlohmann::json parse_json(std::string_view text, const std::string& where, Repeats repeats = Repeats::none);

/// As parse_json, of a whole file.
nlohmann::json read_json(const std::filesystem::path& file);

/// A value as an error shows it: of a long one, its beginning.
std::string shown(const nlohmann::json& value);

/// The value of `key`. Throws Error when it is missing or of another type.
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
