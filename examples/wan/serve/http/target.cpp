#include "wan/serve/http/target.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "wan/serve/http/refusal.hpp"

namespace wan::serve {
namespace {

[[noreturn]] void refuse_query(const std::string& sentence, const std::string& field = {}) {
  throw Refusal(http::status::bad_request, "invalid_value", sentence, field);
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// `a+b%20c`, decoded.
std::string decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+') {
      out += ' ';
    } else if (text[i] == '%') {
      const int high = i + 2 < text.size() ? digit(text[i + 1]) : -1;
      const int low = high >= 0 ? digit(text[i + 2]) : -1;
      if (low < 0) refuse_query("the query holds a % without two hexadecimal digits behind it");
      out += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

Target::Target(std::string_view text) {
  const auto mark = text.find('?');
  path = text.substr(0, mark);
  if (path.empty() || path[0] != '/') refuse_query("the target of a request begins with /");
  for (size_t at = 1; at <= path.size();) {
    const auto end = std::min(path.find('/', at), path.size());
    parts.push_back(path.substr(at, end - at));
    at = end + 1;
  }
  if (mark == std::string_view::npos) return;
  for (auto rest = text.substr(mark + 1); !rest.empty();) {
    const auto end = std::min(rest.find('&'), rest.size());
    const auto pair = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (pair.empty()) continue;
    const auto equal = std::min(pair.find('='), pair.size());
    const auto name = decoded(pair.substr(0, equal));
    const auto value = equal < pair.size() ? decoded(pair.substr(equal + 1)) : std::string();
    if (!query.emplace(name, value).second)
      refuse_query(fmt::format("the query has '{}' twice; give it once", name), name);
  }
}

std::optional<std::string> Target::value(const std::string& field) const {
  const auto found = query.find(field);
  return found == query.end() || found->second.empty() ? std::nullopt : std::optional(found->second);
}

std::optional<int64_t> Target::number(const std::string& field, int64_t least, int64_t greatest) const {
  const auto text = value(field);
  if (!text) return std::nullopt;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || end != text->data() + text->size() || number < least || number > greatest)
    refuse_query(
        fmt::format("{} is '{}'; it must be a whole number from {} to {}", field, *text, least, greatest),
        field);
  return number;
}

std::optional<std::string> Target::one_of(const std::string& field,
                                          const std::vector<std::string>& words) const {
  const auto text = value(field);
  if (text && std::find(words.begin(), words.end(), *text) == words.end())
    refuse_query(fmt::format("{} is '{}'; choose one of {}", field, *text, fmt::join(words, ", ")), field);
  return text;
}

}  // namespace wan::serve
