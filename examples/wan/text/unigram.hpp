#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace wan {

/// A unigram language model over pieces of text: cuts a text into the most likely pieces.
/// Algorithm: Viterbi, as `Unigram` in the library tokenizers has it, to the last bit.
class Unigram {
 public:
  /// A piece's place in the list is its id.
  using Pieces = std::vector<std::pair<std::string, double>>;

  /// `unknown` is the id of what no piece stands for; with `bytes`, pieces such as <0x0A> stand for its
  /// bytes.
  Unigram(Pieces pieces, int64_t unknown, bool bytes);
  Unigram(Unigram&&) noexcept = default;
  Unigram& operator=(Unigram&&) noexcept = default;

  /// Appends the ids of a UTF-8 text's pieces.
  void encode(std::string_view text, std::vector<int64_t>& ids) const;

  /// The id of exactly this piece; -1 where there is none.
  int64_t id_of(std::string_view piece) const;
  int64_t size() const { return static_cast<int64_t>(pieces_.size()); }

 private:
  void encode_unknown(const std::string& text, std::vector<int64_t>& ids) const;

  Pieces pieces_;
  std::unordered_map<std::string_view, int64_t> ids_;  // views of pieces_
  size_t longest_ = 0;
  int64_t unknown_;
  bool bytes_;
  double unknown_score_ = 0;
};

}  // namespace wan
