#pragma once
#include <string>
#include <vector>

#include "wan/text/unigram.hpp"

namespace wan {

/// A vocabulary with umT5's special tokens (pad 0, eos 1, bos 2, unk 3), and behind them the letters and
/// words of sentences, as likely as they are frequent. Other words are spelt. The same sentences always make
/// the same.
Unigram::Pieces vocabulary_of(const std::vector<std::string>& sentences);

/// The bytes of a SentencePiece model of such a vocabulary.
std::string sentencepiece_model(const Unigram::Pieces& vocabulary);

/// The text of the same vocabulary's tokenizer.json, which Hugging Face's tokenizers read.
std::string tokenizer_json(const Unigram::Pieces& vocabulary);

}  // namespace wan
