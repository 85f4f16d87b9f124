#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace wanpar {

/// The elements of a tensor that a rank holds, with a digest of their values; without a digest, the first
/// rank's values are saved.
struct HeldPiece {
  std::string name, dtype;
  std::vector<int64_t> sizes, strides;
  int64_t begin = 0, count = 0;
  std::vector<double> digest = {};
  double tolerance = 0;
};

/// A tensor of a checkpoint. Chunk: elements [begin, begin + count), in memory order, are in the file of
/// `rank`.
struct StoredTensor {
  struct Chunk {
    int rank;
    int64_t begin, count;
  };
  std::string dtype;
  std::vector<int64_t> sizes, strides;
  std::vector<Chunk> chunks = {};  ///< consecutive

  int64_t numel() const;
};

/// By name.
using StoredTensors = std::map<std::string, StoredTensor>;

/// Plans which rank writes what: each element once. What several ranks hold is written by the one with the
/// fewest bytes so far. Throws Error if ranks hold different values under one name, if two hold pieces that
/// overlap partially, and if an element is on no rank.
StoredTensors who_writes_what(const std::vector<std::vector<HeldPiece>>& of_ranks);

nlohmann::json json_of(const StoredTensors& tensors);
/// Throws Error, starting with `where`, for what json_of() does not write, and for chunks that leave holes.
StoredTensors tensors_from(const nlohmann::json& json, const std::string& where);

nlohmann::json json_of(const std::vector<HeldPiece>& pieces);
std::vector<HeldPiece> pieces_from(const nlohmann::json& json);

}  // namespace wanpar
