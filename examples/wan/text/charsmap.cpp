#include "wan/text/charsmap.hpp"

#include <unicode/brkiter.h>
#include <unicode/unistr.h>

#include <cstring>
#include <memory>
#include <wanpar/core/error.hpp>

namespace wan {
namespace {

// A node of the trie, in 32 bits.
bool has_leaf(uint32_t node) { return (node >> 8 & 1) != 0; }
uint32_t label(uint32_t node) { return node & 0x800000ffU; }
uint32_t offset(uint32_t node) { return (node >> 10) << ((node & 0x200U) >> 6); }
uint32_t value(uint32_t node) { return node & 0x7fffffffU; }

std::string utf8_of(const icu::UnicodeString& text) {
  std::string utf8;
  return text.toUTF8String(utf8);
}

}  // namespace

Charsmap::Charsmap(std::string_view table) {
  uint32_t bytes = 0;
  if (table.size() >= sizeof bytes) std::memcpy(&bytes, table.data(), sizeof bytes);
  if (bytes == 0 || bytes % sizeof(uint32_t) != 0 || bytes > table.size() - sizeof bytes)
    throw wanpar::Error("the table that normalises text is damaged");
  trie_.resize(bytes / sizeof(uint32_t));
  std::memcpy(trie_.data(), table.data() + sizeof bytes, bytes);
  texts_ = table.substr(sizeof bytes + bytes);
}

const char* Charsmap::replacement(std::string_view text) const {
  const auto node_at = [&](uint32_t place) { return place < trie_.size() ? trie_[place] : 0x80000000U; };
  uint32_t place = offset(node_at(0));
  for (const unsigned char byte : text) {
    if (byte == 0) break;
    place ^= byte;
    const auto node = node_at(place);
    if (label(node) != byte) return nullptr;
    place ^= offset(node);
    if (!has_leaf(node)) continue;
    const auto found = value(node_at(place));
    return found < texts_.size() ? texts_.c_str() + found : nullptr;
  }
  return nullptr;
}

std::string Charsmap::apply(const std::string& utf8) const {
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::BreakIterator> graphemes(
      icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
  if (U_FAILURE(status))
    throw wanpar::Error(std::string("ICU cannot tell letters apart: ") + u_errorName(status));
  const auto text = icu::UnicodeString::fromUTF8(utf8);
  graphemes->setText(text);

  constexpr size_t kShort = 6;  // bytes; longer groups are not looked up as one
  std::string result;
  for (int32_t begin = 0, end = graphemes->next(); end != icu::BreakIterator::DONE;
       begin = end, end = graphemes->next()) {
    const auto group = utf8_of(text.tempSubStringBetween(begin, end));
    const auto* whole = group.size() < kShort ? replacement(group) : nullptr;
    if (whole != nullptr) {
      result += whole;
      continue;
    }
    for (int32_t at = begin; at < end; at = text.moveIndex32(at, 1)) {
      const auto letter = utf8_of(icu::UnicodeString(text.char32At(at)));
      const auto* other = replacement(letter);
      result += other != nullptr ? other : letter;
    }
  }
  return result;
}

}  // namespace wan
