#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace wanpar {

/// Elements of a tensor that a rank holds, and two numbers by which other values are told apart; none where
/// the first rank's count.
struct HeldPiece {
  std::string name, dtype;
  std::vector<int64_t> sizes, strides;
  int64_t begin = 0, count = 0;
  std::vector<double> digest = {};
  double tolerance = 0;
};

/// A tensor of a checkpoint: elements [begin, begin + count) of its memory, whole, lie in the file of `rank`.
struct StoredTensor {
  struct Chunk {
    int rank;
    int64_t begin, count;
  };
  std::string dtype;
  std::vector<int64_t> sizes, strides;
  std::vector<Chunk> chunks = {};  ///< one behind the other

  int64_t numel() const;
};

/// By name.
using StoredTensors = std::map<std::string, StoredTensor>;

/// Who writes what, of what the ranks hold: each element once. What several ranks hold goes to the one that
/// has the fewest bytes to write so far. Throws Error where ranks hold other values under one name, where two
/// hold pieces that overlap, and where an element is on no rank.
StoredTensors who_writes_what(const std::vector<std::vector<HeldPiece>>& of_ranks);

nlohmann::json json_of(const StoredTensors& tensors);
/// Throws Error, which begins with `where`, for what json_of() does not write, or places that leave holes.
StoredTensors tensors_from(const nlohmann::json& json, const std::string& where);

nlohmann::json json_of(const std::vector<HeldPiece>& pieces);
std::vector<HeldPiece> pieces_from(const nlohmann::json& json);

}  // namespace wanpar
