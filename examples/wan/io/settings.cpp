#include "wan/io/settings.hpp"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <wanpar/extend/files/json.hpp>

namespace wan {
namespace {

using nlohmann::json;

template <class Number>
std::string described(const char* kind, Between<Number> bounds) {
  return bounds.least == bounds.greatest
             ? fmt::format("{}", bounds.least)
             : fmt::format("{} from {} to {}", kind, bounds.least, bounds.greatest);
}

std::string length_of(Between<size_t> length) {
  return length.least == length.greatest ? fmt::format("{}", length.least)
                                         : fmt::format("{} to {}", length.least, length.greatest);
}

/// The whole number that a value is, if it is within bounds; 2.5 is none, nor is one beyond 64 bits.
std::optional<int64_t> whole(const json& value, Between<int64_t> bounds) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    return std::nullopt;
  const auto number = value.get<int64_t>();
  return number >= bounds.least && number <= bounds.greatest ? std::optional(number) : std::nullopt;
}

std::optional<double> real(const json& value, Between<double> bounds) {
  if (!value.is_number()) return std::nullopt;
  const auto number = value.get<double>();
  return number >= bounds.least && number <= bounds.greatest ? std::optional(number) : std::nullopt;
}

}  // namespace

Settings::Settings(const std::filesystem::path& file) : Settings(wanpar::read_json(file), file.string()) {}

bool Settings::has(const std::string& key) const {
  return values_.contains(key) && !values_.at(key).is_null();
}

int64_t Settings::count(const std::string& key, Between<int64_t> bounds) const {
  const auto allowed = described("a whole number", bounds);
  if (const auto number = whole(value(key, allowed), bounds)) return *number;
  refuse(key, allowed);
}

double Settings::amount(const std::string& key, Between<double> bounds) const {
  const auto allowed = described("a number", bounds);
  if (const auto number = real(value(key, allowed), bounds)) return *number;
  refuse(key, allowed);
}

std::string Settings::text(const std::string& key) const {
  const auto& found = value(key, "a text");
  if (!found.is_string()) refuse(key, "a text");
  return found.get<std::string>();
}

std::vector<int64_t> Settings::counts(const std::string& key, Between<size_t> length,
                                      Between<int64_t> bounds) const {
  const auto of = described("whole numbers", bounds);
  std::vector<int64_t> numbers;
  for (const auto& item : list(key, length, of)) {
    const auto number = whole(item, bounds);
    if (!number) refuse(key, fmt::format("a list of {} {}", length_of(length), of));
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<double> Settings::amounts(const std::string& key, Between<size_t> length,
                                      Between<double> bounds) const {
  const auto of = described("numbers", bounds);
  std::vector<double> numbers;
  for (const auto& item : list(key, length, of)) {
    const auto number = real(item, bounds);
    if (!number) refuse(key, fmt::format("a list of {} {}", length_of(length), of));
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<bool> Settings::switches(const std::string& key, Between<size_t> length) const {
  constexpr const char* kOf = "times true or false";
  std::vector<bool> switches;
  for (const auto& item : list(key, length, kOf)) {
    if (!item.is_boolean()) refuse(key, fmt::format("a list of {} {}", length_of(length), kOf));
    switches.push_back(item.get<bool>());
  }
  return switches;
}

void Settings::must_be(const std::string& key, const json& only, const std::string& why) const {
  if (has(key) && values_.at(key) != only) refuse(key, fmt::format("{}: {}", wanpar::shown(only), why));
}

void Settings::must_not_be(const std::string& key, const std::string& why) const {
  if (has(key))
    throw wanpar::Error(fmt::format("{}: '{}' is {}: {}", file_, key, wanpar::shown(values_.at(key)), why));
}

void Settings::refuse(const std::string& key, const std::string& allowed) const {
  throw wanpar::Error(
      fmt::format("{}: '{}' is {}, but must be {}", file_, key, wanpar::shown(values_.at(key)), allowed));
}

const json& Settings::value(const std::string& key, const std::string& allowed) const {
  const auto found = values_.find(key);
  if (found == values_.end())
    throw wanpar::Error(fmt::format("{}: '{}' is missing; it must be {}", file_, key, allowed));
  return *found;
}

const json& Settings::list(const std::string& key, Between<size_t> length, const std::string& of) const {
  const auto allowed = fmt::format("a list of {} {}", length_of(length), of);
  const auto& found = value(key, allowed);
  if (!found.is_array() || found.size() < length.least || found.size() > length.greatest)
    refuse(key, allowed);
  return found;
}

}  // namespace wan
