#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace wan {

/// umT5's vocabulary: a SentencePiece unigram model.
class Tokenizer {
 public:
  /// Throws Error when the file is no SentencePiece model.
  explicit Tokenizer(const std::filesystem::path& model);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// The ids of the cleaned text, cut to fit, and the end token behind them: 1 to `max_tokens` ids.
  std::vector<int64_t> encode(const std::string& text, int64_t max_tokens = 512) const;

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};

}  // namespace wan
