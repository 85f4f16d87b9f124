#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "wan/text/tokenizer.hpp"
#include "wan/text/unigram.hpp"

namespace wan::train {

/// A vocabulary of a world's captions, single letters, and Wan's negative prompt.
Unigram::Pieces caption_vocabulary(uint64_t seed);

/// Token ids and mask [captions, longest], int64.
struct Tokens {
  at::Tensor ids, mask;
};
Tokens tokens_of(const Tokenizer& tokenizer, const std::vector<std::string>& captions, at::Device device);

}  // namespace wan::train
