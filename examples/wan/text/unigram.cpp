#include "wan/text/unigram.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace wan {
namespace {

/// Bytes of the letter that begins with this byte of valid UTF-8.
size_t letter_size(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4; }

/// The best way to a place in the text: its last piece, and where that begins.
struct Step {
  int64_t id = 0;
  double score = 0;
  size_t begin = 0;
  bool is_reached = false;

  void offer(int64_t other, double other_score, size_t other_begin) {
    if (is_reached && other_score <= score) return;
    *this = {other, other_score, other_begin, true};
  }
};

}  // namespace

Unigram::Unigram(Pieces pieces, int64_t unknown, bool bytes)
    : pieces_(std::move(pieces)), unknown_(unknown), bytes_(bytes) {
  double least = std::numeric_limits<double>::max();
  for (size_t id = 0; id < pieces_.size(); ++id) {
    const auto& [text, score] = pieces_[id];
    ids_[text] = static_cast<int64_t>(id);
    longest_ = std::max(longest_, text.size());
    least = std::min(least, score);
  }
  constexpr double kPenalty = 10;
  unknown_score_ = least - kPenalty;
}

int64_t Unigram::id_of(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

void Unigram::encode(std::string_view text, std::vector<int64_t>& ids) const {
  std::vector<Step> steps(text.size() + 1);
  for (size_t begin = 0; begin < text.size();) {
    const auto so_far = steps[begin].score;
    const auto letter = std::min(letter_size(static_cast<unsigned char>(text[begin])), text.size() - begin);
    bool is_known = false;
    for (size_t size = letter; size <= std::min(longest_, text.size() - begin); ++size) {
      const auto id = id_of(text.substr(begin, size));
      if (id < 0) continue;
      steps[begin + size].offer(id, pieces_[id].second + so_far, begin);
      is_known |= size == letter;
    }
    if (!is_known) steps[begin + letter].offer(unknown_, unknown_score_ + so_far, begin);
    begin += letter;
  }

  std::vector<std::string> backwards;  // unknown letters that follow one another are one piece
  bool was_unknown = false;
  for (size_t end = text.size(); end > 0; end = steps[end].begin) {
    const auto piece = text.substr(steps[end].begin, end - steps[end].begin);
    const bool is_unknown = steps[end].id == unknown_;
    if (is_unknown && was_unknown)
      backwards.back().insert(0, piece);
    else
      backwards.emplace_back(piece);
    was_unknown = is_unknown;
  }
  for (auto piece = backwards.rbegin(); piece != backwards.rend(); ++piece) {
    const auto id = id_of(*piece);
    id < 0 ? encode_unknown(*piece, ids) : ids.push_back(id);
  }
}

void Unigram::encode_unknown(const std::string& text, std::vector<int64_t>& ids) const {
  std::vector<int64_t> bytes;
  for (const unsigned char byte : text) bytes.push_back(bytes_ ? id_of(fmt::format("<0x{:02X}>", byte)) : -1);
  if (std::find(bytes.begin(), bytes.end(), -1) != bytes.end()) bytes = {unknown_};
  ids.insert(ids.end(), bytes.begin(), bytes.end());
}

}  // namespace wan
