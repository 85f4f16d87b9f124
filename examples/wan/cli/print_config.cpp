#include "wan/cli/print_config.hpp"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "wan/cli/about.hpp"

namespace wan {
namespace {

bool is_number(const std::string& text) {
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  return error == std::errc() && end == text.data() + text.size() && number == number &&
         (text[0] != '0' || text.size() == 1 || text[1] == '.') && text.back() != '.' && text[0] != '.' &&
         !text.starts_with("-.") && text.find_first_not_of("-.0123456789") == text.npos;
}

/// What JSON escapes in a text, TOML escapes in the same way.
std::string as_toml(const std::string& text) {
  if (text == "true" || text == "false" || is_number(text)) return text;
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::string print_config(const Words& words) {
  constexpr int kColumn = 40;
  std::string lines;
  for (const auto& option : words.known().options()) {
    const auto& flag = option->long_name();
    if (is_about(flag) || flag == "config") continue;
    const auto is_given = words.has(flag.c_str());
    const auto value = words.text(flag.c_str());
    const auto left = is_given        ? fmt::format("{} = {}", flag, as_toml(value))
                      : value.empty() ? fmt::format("# {} =", flag)
                                      : fmt::format("# {} = {}", flag, as_toml(value));
    const auto origin = words.origins().find(flag);
    const auto right = origin != words.origins().end() ? origin->second
                       : is_given                      ? "--" + flag
                       : value.empty()                 ? "not given: " + option->description()
                                                       : "default";
    lines += fmt::format("{:{}} # {}\n", left, kColumn, right);
  }
  for (const auto& note : words.notes()) lines += fmt::format("# note: {}\n", note);
  return lines;
}

}  // namespace wan
