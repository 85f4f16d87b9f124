#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "wan/text/unigram.hpp"

namespace wan {

/// A token that stands for a text of its own, found before the text around it is cut into pieces.
struct SpecialToken {
  std::string text;
  int64_t id = 0;
  bool takes_spaces_before = false;
  bool takes_spaces_behind = false;
  bool is_whole_word = false;     ///< not where letters or digits join it
  bool is_in_normalized = false;  ///< looked for in the text as it is normalised, not as it was
};

/// What a tokenizer's file says, in the steps that the library tokenizers takes.
struct TokenizerModel {
  enum class Space { before_every_part, before_the_first, nowhere };

  std::vector<SpecialToken> special;
  std::vector<std::function<std::string(std::string)>> normalize;
  bool drops_spaces = false;  ///< words are cut at spaces, which are dropped
  Space space = Space::before_every_part;
  Unigram::Pieces pieces;
  int64_t unknown = -1;
  bool bytes = false;
};

/// Of tokenizer.json, as transformers saves a tokenizer with a unigram model. Throws Error, naming file, key
/// and what was found, for steps beyond those that such tokenizers have.
TokenizerModel read_tokenizer_json(const std::filesystem::path& file);

/// Of a SentencePiece model, as transformers' T5Tokenizer takes it, its sentinels <extra_id_0> to
/// <extra_id_99> among the special tokens. Throws Error where it is none, or none of the unigram kind.
TokenizerModel read_sentencepiece(const std::filesystem::path& file);

}  // namespace wan
