#include "checkpoint/checkpoint_layout.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/json.hpp>

namespace wanpar {
namespace {

using nlohmann::json;

/// A piece, and the ranks that hold it.
struct HeldBy {
  const HeldPiece* piece;
  std::vector<int> ranks;
};

bool has_same_values(const HeldPiece& one, const HeldPiece& other) {
  if (one.digest.empty() || other.digest.empty()) return true;
  const auto allowed = one.tolerance * std::max(one.digest[1], other.digest[1]);
  return std::abs(one.digest[0] - other.digest[0]) <= allowed &&
         std::abs(one.digest[1] - other.digest[1]) <= allowed;
}

void require_alike(const HeldBy& first, const HeldPiece& piece, int rank) {
  const auto& one = *first.piece;
  if (one.dtype != piece.dtype || one.sizes != piece.sizes || one.strides != piece.strides)
    throw MismatchError(fmt::format(
        "save_state_dict: '{}' is {}[{}] on rank {} and {}[{}] on rank {}, or lies otherwise in memory there",
        piece.name, one.dtype, fmt::join(one.sizes, ", "), first.ranks[0], piece.dtype,
        fmt::join(piece.sizes, ", "), rank));
}

/// Adds a piece of a rank to those of the same tensor.
void add(std::vector<HeldBy>& all, const HeldPiece& piece, int rank) {
  if (!all.empty()) require_alike(all[0], piece, rank);
  for (auto& held : all) {
    if (held.piece->begin != piece.begin || held.piece->count != piece.count) continue;
    if (!has_same_values(*held.piece, piece))
      throw MismatchError(fmt::format(
          "save_state_dict: '{}' has other values on rank {} than on rank {}, which should hold the same; a "
          "BlockPipeline wants synchronize() before, and each rank its OwnStage where optimizers are saved",
          piece.name, rank, held.ranks[0]));
    held.ranks.push_back(rank);
    return;
  }
  all.push_back({&piece, {rank}});
}

/// The error in chunks that are not consecutive; empty if they are.
std::optional<std::string> fault_of(const StoredTensor& tensor) {
  int64_t end = 0;
  for (auto& chunk : tensor.chunks) {
    if (chunk.begin < end) return fmt::format("element {} is there twice", chunk.begin);
    if (chunk.begin > end) return fmt::format("elements [{}, {}) are on no rank", end, chunk.begin);
    end += chunk.count;
  }
  if (end != tensor.numel()) return fmt::format("elements [{}, {}) are on no rank", end, tensor.numel());
  return std::nullopt;
}

}  // namespace

int64_t StoredTensor::numel() const {
  int64_t product = 1;
  for (auto size : sizes) product *= size;
  return product;
}

StoredTensors who_writes_what(const std::vector<std::vector<HeldPiece>>& of_ranks) {
  std::map<std::string, std::vector<HeldBy>> held;
  for (size_t rank = 0; rank < of_ranks.size(); ++rank)
    for (auto& piece : of_ranks[rank]) add(held[piece.name], piece, static_cast<int>(rank));

  StoredTensors tensors;
  std::vector<int64_t> load(of_ranks.size());
  for (auto& [name, pieces] : held) {
    std::sort(pieces.begin(), pieces.end(), [](auto& a, auto& b) { return a.piece->begin < b.piece->begin; });
    auto& first = *pieces[0].piece;
    StoredTensor tensor{first.dtype, first.sizes, first.strides};
    for (auto& [piece, ranks] : pieces) {
      if (piece->count == 0) continue;
      auto writer =
          piece->digest.empty() ? ranks[0] : *std::min_element(ranks.begin(), ranks.end(), [&](int a, int b) {
            return load[a] < load[b];
          });
      load[writer] += piece->count;
      tensor.chunks.push_back({writer, piece->begin, piece->count});
    }
    if (auto fault = fault_of(tensor)) throw Error(fmt::format("save_state_dict: of '{}' {}", name, *fault));
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

json json_of(const StoredTensors& tensors) {
  auto all = json::object();
  for (auto& [name, tensor] : tensors) {
    auto places = json::array();
    for (auto& chunk : tensor.chunks)
      places.push_back({{"rank", chunk.rank}, {"begin", chunk.begin}, {"count", chunk.count}});
    all[name] = {{"dtype", tensor.dtype},
                 {"shape", tensor.sizes},
                 {"strides", tensor.strides},
                 {"places", std::move(places)}};
  }
  return all;
}

StoredTensors tensors_from(const json& all, const std::string& where) {
  StoredTensors tensors;
  for (auto& [name, item] : all.items()) {
    const auto at = fmt::format("{}: tensor '{}'", where, name);
    auto numbers = [&](const char* key) {
      auto list = value_at<std::vector<int64_t>>(item, key, at);
      for (auto number : list)
        if (number < 0) throw Error(fmt::format("{}: '{}' has {}, which is no count", at, key, number));
      return list;
    };
    if (!item.is_object()) throw Error(at + " is not described by a JSON object");
    StoredTensor tensor{value_at<std::string>(item, "dtype", at), numbers("shape"), numbers("strides")};
    for (auto& chunk : value_at<json>(item, "places", at))
      tensor.chunks.push_back({value_at<int>(chunk, "rank", at), value_at<int64_t>(chunk, "begin", at),
                               value_at<int64_t>(chunk, "count", at)});
    if (tensor.strides.size() != tensor.sizes.size())
      throw Error(at + " has not a stride for each dimension");
    for (auto& chunk : tensor.chunks)
      if (chunk.count < 0 || chunk.rank < 0) throw Error(at + " has a place of fewer than no elements");
    if (auto fault = fault_of(tensor)) throw Error(fmt::format("{}: {}", at, *fault));
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

json json_of(const std::vector<HeldPiece>& pieces) {
  auto all = json::array();
  for (auto& piece : pieces)
    all.push_back({piece.name, piece.dtype, piece.sizes, piece.strides, piece.begin, piece.count,
                   piece.digest, piece.tolerance});
  return all;
}

std::vector<HeldPiece> pieces_from(const json& all) {
  std::vector<HeldPiece> pieces;
  for (auto& item : all)
    pieces.push_back({item[0], item[1], item[2], item[3], item[4], item[5], item[6], item[7]});
  return pieces;
}

}  // namespace wanpar
