#include "wan/demo/vocabulary.hpp"

#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <unordered_map>
#include <vector>
#include <wanpar/core/error.hpp>

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

class Sentences : public sentencepiece::SentenceIterator {
 public:
  bool done() const override { return next_ == sentences_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return sentences_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> sentences_ = sentences();
  size_t next_ = 0;
};

}  // namespace

std::string vocabulary() {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "unigram"},
      {"vocab_size", "400"},
      {"hard_vocab_limit", "false"},
      {"pad_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "2"},
      {"unk_id", "3"},
      {"character_coverage", "1.0"},
      {"num_threads", "1"},
      {"pad_piece", "<pad>"},
      {"minloglevel", "2"},
  };
  Sentences text;
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &text, &model);
  if (!status.ok())
    throw wanpar::Error(fmt::format("demo checkpoint: the vocabulary cannot be made: {}", status.ToString()));
  return model;
}

}  // namespace wan::demo
