#include "wan/serve/http/range.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "wan/serve/http/refusal.hpp"

namespace wan::serve {
namespace {

/// The greatest of 64 bits for one beyond it, which lies outside of any file as well.
std::optional<uint64_t> number_of(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) return std::nullopt;
  return error == std::errc() ? number : std::numeric_limits<uint64_t>::max();
}

}  // namespace

std::optional<Range> range_of(std::string_view header, uint64_t size) {
  constexpr std::string_view kUnit = "bytes=";
  if (!header.starts_with(kUnit)) return std::nullopt;
  header.remove_prefix(kUnit.size());
  const auto dash = header.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto from = header.substr(0, dash), to = header.substr(dash + 1);
  const auto first = number_of(from), last = number_of(to);
  const auto refuse = [&] {
    throw Refusal(http::status::range_not_satisfiable, "range_not_satisfiable",
                  fmt::format("the range lies outside of the file, which has {} bytes", size), "",
                  {{"Content-Range", fmt::format("bytes */{}", size)}});
  };
  if (from.empty()) {  // the last bytes
    if (!last) return std::nullopt;
    if (*last == 0 || size == 0) refuse();
    const auto length = std::min(*last, size);
    return Range{size - length, length};
  }
  if (!first || (!to.empty() && (!last || *last < *first))) return std::nullopt;
  if (*first >= size) refuse();
  const auto end = to.empty() || *last >= size ? size : *last + 1;
  return Range{*first, end - *first};
}

}  // namespace wan::serve
