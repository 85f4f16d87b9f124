#include "wan/cli/print_config.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "wan/cli/about.hpp"

namespace wan {
namespace {

/// Numbers and truths stand as they are. What JSON escapes in a text, TOML escapes in the same way.
std::string as_toml(const std::string& text) {
  static const std::regex bare("true|false|-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,17})?");
  if (std::regex_match(text, bare)) return text;
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
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
