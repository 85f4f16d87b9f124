#include "wan/serve/http/multipart.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "wan/serve/http/refusal.hpp"

namespace wan::serve {
namespace {

constexpr size_t kMostFields = 100;

[[noreturn]] void refuse_form(const std::string& sentence, const std::string& field = {}) {
  throw Refusal(http::status::bad_request, "invalid_form", sentence, field);
}

std::string lowered(std::string_view text) {
  std::string out(text);
  for (auto& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

/// The value of `; name="value"` in a header.
std::string parameter(std::string_view header, std::string_view name) {
  const auto mark = fmt::format("{}=", name);
  const auto small = lowered(header);
  size_t at = small.find(mark);
  while (at != std::string::npos && at > 0 && small[at - 1] != ' ' && small[at - 1] != ';')
    at = small.find(mark, at + 1);
  if (at == std::string::npos) return {};
  auto value = header.substr(at + mark.size());
  if (!value.empty() && value[0] == '"') {
    const auto end = value.find('"', 1);
    return end == std::string_view::npos ? std::string() : std::string(value.substr(1, end - 1));
  }
  return std::string(value.substr(0, value.find_first_of("; \t")));
}

/// What stands before `mark`, which is taken off with it. Throws Refusal where it is missing.
std::string_view take_until(std::string_view& rest, std::string_view mark) {
  const auto end = rest.find(mark);
  if (end == std::string_view::npos) refuse_form("the form ends in the middle of a part");
  const auto before = rest.substr(0, end);
  rest.remove_prefix(end + mark.size());
  return before;
}

}  // namespace

std::map<std::string, std::string> form_fields(std::string_view content_type, std::string_view body) {
  const auto boundary = parameter(content_type, "boundary");
  if (boundary.empty() || boundary.size() > 70)
    refuse_form("the Content-Type multipart/form-data needs a boundary of 1 to 70 letters");
  const auto first = "--" + boundary, next = "\r\n--" + boundary;
  std::map<std::string, std::string> fields;
  auto rest = body;
  if (!rest.starts_with(first)) refuse_form("the form does not begin with its boundary");
  rest.remove_prefix(first.size());
  while (!rest.starts_with("--")) {
    if (!rest.starts_with("\r\n")) refuse_form("a boundary of the form is not followed by a new line");
    rest.remove_prefix(2);
    std::string name;
    for (auto line = take_until(rest, "\r\n"); !line.empty(); line = take_until(rest, "\r\n")) {
      if (!lowered(line).starts_with("content-disposition:")) continue;
      name = parameter(line, "name");
      if (lowered(line).find("filename") != std::string::npos)
        refuse_form(fmt::format("'{}' is a file; image to video is not there, so leave it out", name), name);
    }
    if (name.empty()) refuse_form("a part of the form has no name");
    if (fields.size() >= kMostFields)
      refuse_form(fmt::format("the form has more than {} fields", kMostFields));
    const auto value = take_until(rest, next);
    if (!fields.emplace(name, std::string(value)).second)
      refuse_form(fmt::format("the form has '{}' twice; give it once", name), name);
  }
  return fields;
}

}  // namespace wan::serve
