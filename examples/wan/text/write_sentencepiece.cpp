#include <bit>
#include <cstdint>

#include "wan/text/vocabulary.hpp"

namespace wan {
namespace {

// A message of protocol buffers: sentencepiece_model.proto has the numbers of its fields.

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string number_field(uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); }

std::string text_field(uint64_t field, const std::string& bytes) {
  return varint(field << 3 | 2) + varint(bytes.size()) + bytes;
}

std::string real_field(uint64_t field, float value) {
  auto bits = std::bit_cast<uint32_t>(value);
  auto bytes = varint(field << 3 | 5);
  for (int i = 0; i < 4; ++i, bits >>= 8) bytes += static_cast<char>(bits & 0xff);
  return bytes;
}

enum PieceType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3 };

std::string piece_field(const std::string& word, double score, PieceType type) {
  return text_field(1,
                    text_field(1, word) + real_field(2, static_cast<float>(score)) + number_field(3, type));
}

}  // namespace

std::string sentencepiece_model(const Unigram::Pieces& vocabulary) {
  constexpr size_t kControls = 3;
  std::string model;
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    const auto& [word, score] = vocabulary[id];
    model += piece_field(word, score, id < kControls ? kControl : id == kControls ? kUnknown : kNormal);
  }
  constexpr uint64_t kUnigram = 1;
  const auto training = number_field(3, kUnigram) + number_field(40, 3) + number_field(41, 2) +
                        number_field(42, 1) + number_field(43, 0);
  return model + text_field(2, training) + text_field(3, text_field(1, "identity"));
}

}  // namespace wan
