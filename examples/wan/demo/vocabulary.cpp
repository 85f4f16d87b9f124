#include "wan/demo/vocabulary.hpp"

#include <string>
#include <vector>

#include "wan/text/clean.hpp"
#include "wan/text/negative_prompt.hpp"
#include "wan/text/vocabulary.hpp"

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

}  // namespace

Unigram::Pieces vocabulary() { return vocabulary_of(sentences()); }

}  // namespace wan::demo
