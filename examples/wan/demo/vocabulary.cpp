#include "wan/demo/vocabulary.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include "wan/text/clean.hpp"
#include "wan/text/negative_prompt.hpp"

namespace wan::demo {
namespace {

std::vector<std::string> sentences() {
  return {
      clean(kNegativePrompt),
      "A red fox runs through fresh snow while the sun rises behind the mountains.",
      "Two cats in boxing gloves fight on a stage under a bright spotlight.",
      "The camera follows a small boat across a calm blue sea at night.",
      "Slow motion of waves breaking on black rocks, with white foam and golden light.",
      "A city street in the rain, with neon signs, umbrellas and reflections on the ground.",
      "An old man plays the violin in a quiet room near the window.",
      "Green hills, yellow flowers and a field of wheat that moves in the wind.",
      "A dragon made of clouds flies over the forest and the river.",
      "Close up of a hummingbird drinking from a purple flower in the garden.",
      "A robot walks on the surface of a distant planet, dust and stars around it.",
      "Children jump into a lake in summer; drops of water shine in the air.",
      "0 1 2 3 4 5 6 7 8 9 ( ) [ ] : ; ! ? ' \" & % + - * / = # @ _",
      "a b c d e f g h i j k l m n o p q r s t u v w x y z",
      "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
  };
}

const std::string kSpace = "▁";  // marks where a word begins

/// The letters of a UTF-8 text.
std::vector<std::string> letters_of(const std::string& text) {
  std::vector<std::string> letters;
  for (const char byte : text) {
    if ((byte & 0xC0) != 0x80) letters.emplace_back();
    letters.back() += byte;
  }
  return letters;
}

/// How often each letter and each word of the sentences occurs, a word with the mark of the space before it.
std::map<std::string, int64_t> counts() {
  const std::string punctuation = ".,:;!?()[]'\"";
  std::map<std::string, int64_t> counts;
  for (const auto& sentence : sentences()) {
    std::string word;
    const auto end_word = [&] {
      if (!word.empty()) ++counts[word];
      word.clear();
    };
    for (const auto& letter : letters_of(" " + sentence)) {
      const auto& shown = letter == " " ? kSpace : letter;
      ++counts[shown];
      const bool is_apart = punctuation.find(letter) != std::string::npos;
      if (letter == " " || is_apart) end_word();
      if (!is_apart) word += shown;
    }
    end_word();
  }
  return counts;
}

// A message of protocol buffers: sentencepiece_model.proto has the numbers of its fields.

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string number(uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); }

std::string text(uint64_t field, const std::string& bytes) {
  return varint(field << 3 | 2) + varint(bytes.size()) + bytes;
}

std::string real(uint64_t field, float value) {
  auto bits = std::bit_cast<uint32_t>(value);
  auto bytes = varint(field << 3 | 5);
  for (int i = 0; i < 4; ++i, bits >>= 8) bytes += static_cast<char>(bits & 0xff);
  return bytes;
}

enum PieceType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3 };

std::string piece(const std::string& word, double score, PieceType type) {
  return text(1, text(1, word) + real(2, static_cast<float>(score)) + number(3, type));
}

}  // namespace

std::string vocabulary() {
  std::string model = piece("<pad>", 0, kControl) + piece("</s>", 0, kControl) + piece("<s>", 0, kControl) +
                      piece("<unk>", 0, kUnknown);
  const auto all = counts();
  double total = 0;
  for (const auto& [word, count] : all) total += static_cast<double>(count);
  for (const auto& [word, count] : all)
    model += piece(word, std::log(static_cast<double>(count) / total), kNormal);
  constexpr uint64_t kUnigram = 1;
  const auto training = number(3, kUnigram) + number(40, 3) + number(41, 2) + number(42, 1) + number(43, 0);
  return model + text(2, training) + text(3, text(1, "identity"));
}

}  // namespace wan::demo
