#include "wan/text/windows1252.hpp"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

namespace wan {
namespace {

/// Bytes 0x80 to 0x9f; everywhere else Windows-1252 is Latin-1. 0 where it has no character.
constexpr char32_t kHigh[32] = {0x20ac, 0,      0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
                                0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017d, 0,
                                0,      0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
                                0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0,      0x017e, 0x0178};

/// Characters that well-formed text puts behind an accented capital, as in "CAFÉ”" or "À la".
constexpr std::u32string_view kOrdinary =
    U"\u00a0\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u2026\u2013"
    U"\u2014\u2022\u2039\u203a\u2122\u00ae";

struct Sequence {
  size_t length = 0;  // characters, each of them one byte of UTF-8; 0 where there is no sequence
  char32_t character = 0;
};

/// The multi-byte UTF-8 sequence that the characters from `start` spell.
Sequence sequence_at(const std::u32string& text, size_t start) {
  const auto byte_at = [&](size_t i) -> unsigned {
    return i < text.size() ? to_windows1252(text[i]).value_or(0) : 0;
  };
  const unsigned lead = byte_at(start);
  const size_t length = lead >= 0xc2 && lead < 0xe0   ? 2
                        : lead >= 0xe0 && lead < 0xf0 ? 3
                        : lead >= 0xf0 && lead < 0xf5 ? 4
                                                      : 0;
  if (length == 0) return {};
  char32_t character = lead & (0xff >> (length + 1));
  for (size_t i = start + 1; i < start + length; ++i) {
    const unsigned byte = byte_at(i);
    if ((byte & 0xc0) != 0x80) return {};
    character = character << 6 | (byte & 0x3f);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = character >= 0xd800 && character < 0xe000;
  if (character < kSmallest[length] || character > 0x10ffff || is_surrogate) return {};
  return {length, character};
}

std::u32string repaired_once(const std::u32string& text) {
  std::u32string repaired;
  for (size_t i = 0; i < text.size();) {
    // A run of sequences is repaired as a whole, and only when it cannot well be meant as it stands.
    std::u32string run;
    size_t end = i, sequences = 0;
    bool is_certain = false;
    for (auto next = sequence_at(text, end); next.length > 0; next = sequence_at(text, end)) {
      is_certain |= next.length > 2 || kOrdinary.find(text[end + 1]) == kOrdinary.npos;
      run.push_back(next.character);
      end += next.length;
      ++sequences;
    }
    if (is_certain || sequences > 1) {
      repaired += run;
      i = end;
    } else {
      repaired.push_back(text[i++]);
    }
  }
  return repaired;
}

}  // namespace

char32_t from_windows1252(unsigned char byte) {
  const bool is_high = byte >= 0x80 && byte < 0xa0 && kHigh[byte - 0x80] != 0;
  return is_high ? kHigh[byte - 0x80] : byte;
}

std::optional<unsigned char> to_windows1252(char32_t character) {
  if (character < 0x100) return static_cast<unsigned char>(character);
  const auto found = std::find(std::begin(kHigh), std::end(kHigh), character);
  if (found == std::end(kHigh)) return std::nullopt;
  return static_cast<unsigned char>(0x80 + (found - std::begin(kHigh)));
}

std::u32string repair_mojibake(std::u32string text) {
  // Each round shortens the text, so there is a last one.
  for (auto next = repaired_once(text); next != text; next = repaired_once(text)) text = std::move(next);
  return text;
}

}  // namespace wan
