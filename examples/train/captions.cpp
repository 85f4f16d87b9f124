#include "train/captions.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "train/shapes.hpp"
#include "wan/text/clean.hpp"
#include "wan/text/negative_prompt.hpp"
#include "wan/text/vocabulary.hpp"

namespace wan::train {

Unigram::Pieces caption_vocabulary(uint64_t seed) {
  constexpr uint64_t kCaptions = 300;
  std::vector<std::string> sentences = {
      clean(kNegativePrompt), "a b c d e f g h i j k l m n o p q r s t u v w x y z",
      "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z", "0 1 2 3 4 5 6 7 8 9 . , ; : ! ? ' \" ( ) -"};
  for (uint64_t i = 0; i < kCaptions; ++i) sentences.push_back(scene_of(seed, i).caption);
  return vocabulary_of(sentences);
}

Tokens tokens_of(const Tokenizer& tokenizer, const std::vector<std::string>& captions, at::Device device) {
  std::vector<std::vector<int64_t>> rows;
  size_t longest = 0;
  for (const auto& caption : captions) {
    rows.push_back(tokenizer.encode(caption));
    longest = std::max(longest, rows.back().size());
  }
  auto ids = at::zeros({static_cast<int64_t>(rows.size()), static_cast<int64_t>(longest)}, at::kLong);
  auto mask = at::zeros_like(ids);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<int64_t>(i), length = static_cast<int64_t>(rows[i].size());
    ids[row].narrow(0, 0, length).copy_(at::tensor(rows[i], at::kLong));
    mask[row].narrow(0, 0, length).fill_(1);
  }
  return {ids.to(device), mask.to(device)};
}

}  // namespace wan::train
