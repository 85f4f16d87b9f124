#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "wan/text/tokenizer_model.hpp"

namespace wan {

/// umT5's vocabulary. Gives the ids that transformers' tokenizer gives.
class Tokenizer {
 public:
  /// `file` is a tokenizer.json or a SentencePiece model. Throws Error when it is neither, or lacks umT5's
  /// end token.
  explicit Tokenizer(const std::filesystem::path& file);

  /// The ids of the cleaned text and the end token behind them, as many as they are. Texts such as </s> or
  /// <extra_id_0> in it are the tokens of that name. Throws Error for a text that is not valid UTF-8.
  std::vector<int64_t> encode(const std::string& text) const;

  /// How many ids there are for pieces of text; special tokens may lie beyond.
  int64_t size() const { return pieces_.size(); }

 private:
  Tokenizer(TokenizerModel model, const std::filesystem::path& file);

  void encode_part(const std::string& part, bool is_first, bool is_normalized,
                   std::vector<int64_t>& ids) const;
  void encode_pieces(std::string text, bool is_first, std::vector<int64_t>& ids) const;
  std::string normalized(std::string text) const;

  TokenizerModel model_;  // without its pieces
  Unigram pieces_;
  int64_t end_ = -1;
};

/// The first `most` - 1 of the ids and the last, the end token, where there are more than `most`.
std::vector<int64_t> cut(std::vector<int64_t> ids, int64_t most);

}  // namespace wan
