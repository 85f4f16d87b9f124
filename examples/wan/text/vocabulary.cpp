#include "wan/text/vocabulary.hpp"

#include <cmath>
#include <cstdint>
#include <map>

namespace wan {
namespace {

const std::string kSpaceMark = "▁";  // where a word begins

/// The letters of a UTF-8 text.
std::vector<std::string> letters_of(const std::string& text) {
  std::vector<std::string> letters;
  for (const char byte : text) {
    if ((byte & 0xC0) != 0x80) letters.emplace_back();
    letters.back() += byte;
  }
  return letters;
}

/// How often each letter and each word occurs, a word with the mark of the space before it.
std::map<std::string, int64_t> counts(const std::vector<std::string>& sentences) {
  const std::string punctuation = ".,:;!?()[]'\"";
  std::map<std::string, int64_t> counts;
  for (const auto& sentence : sentences) {
    std::string word;
    const auto end_word = [&] {
      if (!word.empty()) ++counts[word];
      word.clear();
    };
    for (const auto& letter : letters_of(" " + sentence)) {
      const auto& shown = letter == " " ? kSpaceMark : letter;
      ++counts[shown];
      const bool is_apart = punctuation.find(letter) != std::string::npos;
      if (letter == " " || is_apart) end_word();
      if (!is_apart) word += shown;
    }
    end_word();
  }
  return counts;
}

}  // namespace

Unigram::Pieces vocabulary_of(const std::vector<std::string>& sentences) {
  Unigram::Pieces pieces = {{"<pad>", 0}, {"</s>", 0}, {"<s>", 0}, {"<unk>", 0}};
  const auto all = counts(sentences);
  double total = 0;
  for (const auto& [word, count] : all) total += static_cast<double>(count);
  for (const auto& [word, count] : all)  // with the scores that a file can hold
    pieces.emplace_back(word, static_cast<float>(std::log(static_cast<double>(count) / total)));
  return pieces;
}

}  // namespace wan
