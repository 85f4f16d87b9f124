#include "wan/text/clean.hpp"

#include <fmt/format.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <string_view>

#include "wan/text/entities.hpp"
#include "wan/text/windows1252.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

std::u32string decode(const std::string& utf8) {
  std::u32string text;
  const auto* bytes = reinterpret_cast<const uint8_t*>(utf8.data());
  const auto size = static_cast<int32_t>(utf8.size());
  for (int32_t at = 0; at < size;) {
    const int32_t start = at;
    UChar32 character = 0;
    U8_NEXT(bytes, at, size, character);
    if (character < 0) {
      throw wanpar::Error(
          fmt::format("the prompt is not valid UTF-8 at byte {}; convert it to UTF-8", start));
    }
    text.push_back(static_cast<char32_t>(character));
  }
  return text;
}

icu::UnicodeString to_icu(std::u32string_view text) {
  return icu::UnicodeString::fromUTF32(reinterpret_cast<const UChar32*>(text.data()),
                                       static_cast<int32_t>(text.size()));
}

std::u32string from_icu(const icu::UnicodeString& text) {
  std::u32string characters;
  for (int32_t at = 0; at < text.length(); at = text.moveIndex32(at, 1)) {
    characters.push_back(static_cast<char32_t>(text.char32At(at)));
  }
  return characters;
}

using Form = const icu::Normalizer2* (*)(UErrorCode&);

std::u32string normalized(std::u32string_view text, Form form) {
  UErrorCode status = U_ZERO_ERROR;
  const auto* normalizer = form(status);
  const auto result = U_SUCCESS(status) ? normalizer->normalize(to_icu(text), status) : icu::UnicodeString();
  if (U_FAILURE(status)) {
    throw wanpar::Error(fmt::format("ICU cannot normalise the prompt: {}", u_errorName(status)));
  }
  return from_icu(result);
}

bool is_within(char32_t c, char32_t first, char32_t last) { return c >= first && c <= last; }

/// Joined letters that stand for two; their NFKC form is those two.
bool is_ligature(char32_t c) {
  return c == 0x0132 || c == 0x0133 || c == 0x0149 || is_within(c, 0x01c4, 0x01cc) ||
         is_within(c, 0x01f1, 0x01f3) || is_within(c, 0xfb00, 0xfb06);
}

bool is_full_or_half_width(char32_t c) { return is_within(c, 0xff01, 0xffef); }

/// Control characters without meaning in text; tabs, line breaks and zero-width spaces stay.
bool is_dropped(char32_t c) {
  return c <= 0x08 || c == 0x0b || is_within(c, 0x0e, 0x1f) || c == 0x7f || is_within(c, 0x206a, 0x206f) ||
         c == 0xfeff || is_within(c, 0xfff9, 0xfffc);
}

char32_t straightened(char32_t c) {
  if (c == 0x02bc || is_within(c, 0x2018, 0x201b)) return U'\'';
  if (is_within(c, 0x201c, 0x201f)) return U'"';
  if (c == 0x2028 || c == 0x2029 || c == U'\r') return U'\n';
  if (c == 0x3000) return U' ';
  return c;
}

std::u32string folded(const std::u32string& text) {
  std::u32string result;
  for (char32_t c : text) {
    if (is_within(c, 0x80, 0x9f)) c = from_windows1252(static_cast<unsigned char>(c));
    const auto letters = is_ligature(c) || is_full_or_half_width(c)
                             ? normalized({&c, 1}, icu::Normalizer2::getNFKCInstance)
                             : std::u32string(1, c);
    for (const char32_t letter : letters) {
      if (!is_dropped(letter)) result.push_back(straightened(letter));
    }
  }
  return result;
}

/// Removes the sequences that colour a terminal: escape, '[', digits and semicolons, a letter.
std::u32string without_terminal_escapes(const std::u32string& text) {
  std::u32string result;
  for (size_t at = 0; at < text.size(); ++at) {
    size_t end = at + 2;
    if (text.compare(at, 2, U"\x1b[") == 0) {
      while (end < text.size() && (is_within(text[end], U'0', U'9') || text[end] == U';')) ++end;
      if (end < text.size() && is_within(text[end] | 0x20, U'a', U'z')) {
        at = end;
        continue;
      }
    }
    result.push_back(text[at]);
  }
  return result;
}

/// One step may uncover the work of another, an entity that spells an entity for one.
std::u32string fixed(std::u32string text) {
  constexpr int kEnough = 16;
  for (int round = 0; round < kEnough; ++round) {
    auto next = text.find(U'<') == text.npos ? unescape_html(text) : text;
    next = folded(repair_mojibake(without_terminal_escapes(next)));
    next = normalized(next, icu::Normalizer2::getNFCInstance);
    if (next == text) break;
    text = std::move(next);
  }
  return text;
}

std::u32string collapsed(const std::u32string& text) {
  std::u32string result;
  for (const char32_t c : text) {
    const bool is_space = u_isUWhiteSpace(static_cast<UChar32>(c)) || is_within(c, 0x1c, 0x1f);
    if (!is_space) {
      result.push_back(c);
    } else if (!result.empty() && result.back() != U' ') {
      result.push_back(U' ');
    }
  }
  if (!result.empty() && result.back() == U' ') result.pop_back();
  return result;
}

}  // namespace

std::string clean(const std::string& utf8) {
  const auto text = collapsed(unescape_html(unescape_html(fixed(decode(utf8)))));
  std::string result;
  to_icu(text).toUTF8String(result);
  return result;
}

}  // namespace wan
