#include "wan/text/tokenizer.hpp"

#include <fmt/format.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "wan/text/clean.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

constexpr const char* kEnd = "</s>";
constexpr std::string_view kSpace = "▁";  // marks where a word begins

TokenizerModel read(const std::filesystem::path& file) {
  return file.extension() == ".json" ? read_tokenizer_json(file) : read_sentencepiece(file);
}

/// Whether a letter or digit ends, or begins, right at a place in the text.
bool is_word_before(std::string_view text, size_t place) {
  if (place == 0) return false;
  auto at = static_cast<int32_t>(place);
  UChar32 letter = 0;
  U8_PREV(reinterpret_cast<const uint8_t*>(text.data()), 0, at, letter);
  return u_isalnum(letter) || letter == '_';
}

bool is_word_behind(std::string_view text, size_t place) {
  if (place == text.size()) return false;
  auto at = static_cast<int32_t>(place);
  UChar32 letter = 0;
  U8_NEXT(reinterpret_cast<const uint8_t*>(text.data()), at, static_cast<int32_t>(text.size()), letter);
  return u_isalnum(letter) || letter == '_';
}

struct Found {
  size_t begin, end;
  int64_t id;
};

/// The first special token in a text from a place on; the longest of those that begin there.
std::optional<Found> find_special(const std::vector<SpecialToken>& special, bool in_normalized,
                                  std::string_view text, size_t from) {
  const auto is_at = [&](const SpecialToken& token, size_t at) {
    return token.is_in_normalized == in_normalized && !token.text.empty() && text[at] == token.text[0] &&
           text.substr(at, token.text.size()) == token.text &&
           !(token.is_whole_word &&
             (is_word_before(text, at) || is_word_behind(text, at + token.text.size())));
  };
  for (size_t at = from; at < text.size(); ++at) {
    const SpecialToken* best = nullptr;
    for (const auto& token : special)
      if (is_at(token, at) && (best == nullptr || token.text.size() > best->text.size())) best = &token;
    if (best == nullptr) continue;
    Found found{at, at + best->text.size(), best->id};
    while (best->takes_spaces_before && found.begin > from && text[found.begin - 1] == ' ') --found.begin;
    while (best->takes_spaces_behind && found.end < text.size() && text[found.end] == ' ') ++found.end;
    return found;
  }
  return std::nullopt;
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    if (text.empty()) return words;
    const auto size = std::min(text.find(' '), text.size());
    words.push_back(text.substr(0, size));
    text.remove_prefix(size);
  }
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& file) : Tokenizer(read(file), file) {}

Tokenizer::Tokenizer(TokenizerModel model, const std::filesystem::path& file)
    : model_(std::move(model)), pieces_(std::move(model_.pieces), model_.unknown, model_.bytes) {
  for (const auto& token : model_.special)
    if (token.text == kEnd) end_ = token.id;
  if (end_ < 0) end_ = pieces_.id_of(kEnd);
  if (end_ < 0)
    throw wanpar::Error(
        fmt::format("{} has no token '{}', with which umT5's texts end; take that of google/umt5-xxl",
                    file.string(), kEnd));
}

std::vector<int64_t> Tokenizer::encode(const std::string& text) const {
  std::vector<int64_t> ids;
  encode_part(clean(text), true, false, ids);
  ids.push_back(end_);
  return ids;
}

/// Special tokens are taken out of the text as it is, and then others out of what is normalised between them.
void Tokenizer::encode_part(const std::string& part, bool is_first, bool is_normalized,
                            std::vector<int64_t>& ids) const {
  const auto between = [&](size_t begin, size_t end) {
    if (begin == end) return;
    auto text = part.substr(begin, end - begin);
    const bool first = is_first && begin == 0;
    is_normalized ? encode_pieces(std::move(text), first, ids)
                  : encode_part(normalized(std::move(text)), first, true, ids);
  };
  size_t from = 0;
  while (const auto found = find_special(model_.special, is_normalized, part, from)) {
    between(from, found->begin);
    ids.push_back(found->id);
    from = found->end;
  }
  between(from, part.size());
}

std::string Tokenizer::normalized(std::string text) const {
  for (const auto& step : model_.normalize) text = step(std::move(text));
  return text;
}

void Tokenizer::encode_pieces(std::string text, bool is_first, std::vector<int64_t>& ids) const {
  using Space = TokenizerModel::Space;
  std::vector<std::string_view> parts = {text};
  if (model_.drops_spaces) parts = words_of(text);
  for (size_t i = 0; i < parts.size(); ++i) {
    std::string marked;
    for (const char letter : parts[i]) letter == ' ' ? marked += kSpace : marked += letter;
    const bool is_before = model_.space == Space::before_every_part ||
                           (model_.space == Space::before_the_first && is_first && i == 0);
    if (is_before && !marked.starts_with(kSpace)) marked.insert(0, kSpace);
    for (size_t begin = 0; begin < marked.size();) {
      const auto end = std::min(marked.find(kSpace, begin + 1), marked.size());
      pieces_.encode(std::string_view(marked).substr(begin, end - begin), ids);
      begin = end;
    }
  }
}

std::vector<int64_t> cut(std::vector<int64_t> ids, int64_t most) {
  if (static_cast<int64_t>(ids.size()) > most) ids.erase(ids.begin() + most - 1, ids.end() - 1);
  return ids;
}

}  // namespace wan
