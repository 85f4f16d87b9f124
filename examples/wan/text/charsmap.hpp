#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace wan {

/// The table by which a SentencePiece model normalises text: what each letter, or short group of letters, is
/// replaced by. Format: a double-array trie (github.com/s-yata/darts-clone) and the texts that it points to.
class Charsmap {
 public:
  /// Throws Error where the table's sizes contradict each other.
  explicit Charsmap(std::string_view table);

  /// The text with each grapheme replaced, or else each of its letters.
  std::string apply(const std::string& utf8) const;

 private:
  /// What stands for a text, or rather for the shortest beginning of it that is in the table; null: nothing.
  const char* replacement(std::string_view text) const;

  std::vector<uint32_t> trie_;
  std::string texts_;
};

}  // namespace wan
