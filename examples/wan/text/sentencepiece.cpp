#include <fmt/format.h>

#include <bit>
#include <optional>
#include <wanpar/extend/files/mapped_file.hpp>

#include "wan/text/charsmap.hpp"
#include "wan/text/tokenizer_model.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

/// A message of protocol buffers, field by field. Format: protobuf.dev/programming-guides/encoding
class Message {
 public:
  struct Field {
    uint64_t number;
    uint64_t value;          // of a number
    std::string_view bytes;  // of a text or message
  };

  explicit Message(std::string_view bytes) : rest_(bytes) {}

  /// The next field; none at the end. Throws Error where the bytes are no message.
  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const auto tag = varint();
    Field field{tag >> 3, 0, {}};
    constexpr uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;
    switch (tag & 7) {
      case kVarint:
        field.value = varint();
        return field;
      case kFixed64:
        field.bytes = take(8);
        return field;
      case kBytes:
        field.bytes = take(varint());
        return field;
      case kFixed32:
        field.bytes = take(4);
        return field;
    }
    throw wanpar::Error("a field is of no kind that there is");
  }

 private:
  std::string_view take(uint64_t size) {
    if (size > rest_.size()) throw wanpar::Error("it ends too early");
    const auto taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw wanpar::Error("a number is too long");
  }

  std::string_view rest_;
};

float float_of(std::string_view four_bytes) {
  uint32_t bits = 0;
  for (size_t i = 0; i < 4; ++i) bits |= uint32_t{static_cast<unsigned char>(four_bytes[i])} << (8 * i);
  return std::bit_cast<float>(bits);
}

// Numbers of fields: sentencepiece_model.proto.

void read_piece(std::string_view bytes, TokenizerModel& model) {
  constexpr uint64_t kText = 1, kScore = 2, kType = 3, kUnknown = 2;
  std::string text;
  double score = 0;
  Message message(bytes);
  while (const auto field = message.next()) {
    if (field->number == kText) text = field->bytes;
    if (field->number == kScore && field->bytes.size() == 4) score = float_of(field->bytes);
    if (field->number == kType && field->value == kUnknown)
      model.unknown = static_cast<int64_t>(model.pieces.size());
  }
  if (!(score > -1e30 && score < 1e30)) throw wanpar::Error(fmt::format("the piece '{}' has no score", text));
  model.pieces.emplace_back(std::move(text), score);
}

void read_training(std::string_view bytes, TokenizerModel& model) {
  constexpr uint64_t kType = 3, kBytes = 35, kUnigram = 1;
  Message message(bytes);
  while (const auto field = message.next()) {
    if (field->number == kType && field->value != kUnigram)
      throw wanpar::Error("its model is not of the unigram kind, which umT5's is");
    if (field->number == kBytes) model.bytes = field->value != 0;
  }
}

void read_normalizer(std::string_view bytes, TokenizerModel& model) {
  constexpr uint64_t kCharsmap = 2;
  Message message(bytes);
  while (const auto field = message.next())
    if (field->number == kCharsmap && !field->bytes.empty())
      model.normalize.emplace_back(
          [map = Charsmap(field->bytes)](const std::string& text) { return map.apply(text); });
}

TokenizerModel read_model(std::string_view bytes) {
  constexpr uint64_t kPiece = 1, kTraining = 2, kNormalizer = 3;
  TokenizerModel model;
  Message message(bytes);
  while (const auto field = message.next()) {
    if (field->number == kPiece) read_piece(field->bytes, model);
    if (field->number == kTraining) read_training(field->bytes, model);
    if (field->number == kNormalizer) read_normalizer(field->bytes, model);
  }
  if (model.pieces.empty()) throw wanpar::Error("it has no pieces");
  if (model.unknown < 0) throw wanpar::Error("it has no piece for what is unknown");
  return model;
}

}  // namespace

TokenizerModel read_sentencepiece(const std::filesystem::path& file) try {
  auto model = read_model(wanpar::MappedFile::open(file)->bytes());
  model.drops_spaces = true;

  constexpr int64_t kSentinels = 100;
  const auto size = static_cast<int64_t>(model.pieces.size());
  for (int64_t id = 0; id < size; ++id)
    for (const auto* text : {"<pad>", "</s>", "<s>", "<unk>"})
      if (model.pieces[id].first == text) model.special.push_back({.text = text, .id = id});
  for (int64_t i = 0; i < kSentinels; ++i)
    model.special.push_back({.text = fmt::format("<extra_id_{}>", i), .id = size + kSentinels - 1 - i});
  return model;
} catch (const wanpar::Error& error) {
  const std::string reason = error.what();
  if (reason.starts_with(file.string())) throw;
  throw wanpar::Error(fmt::format("{} cannot be read as a SentencePiece model: {}; download it again",
                                  file.string(), reason));
}

}  // namespace wan
