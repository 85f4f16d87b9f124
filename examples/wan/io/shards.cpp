#include "wan/io/shards.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <wanpar/extend/files/json.hpp>
#include <wanpar/extend/files/mapped_file.hpp>
#include <wanpar/files/safetensors.hpp>

#include "wanpar/core/error.hpp"

namespace wan {
namespace {

namespace fs = std::filesystem;

/// A name that cannot lead out of the folder.
bool is_plain(const std::string& name) {
  const auto is_odd = [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '/' || c == '\\'; };
  return !name.empty() && name != "." && name != ".." && std::none_of(name.begin(), name.end(), is_odd);
}

/// Shards by file name, and the tensors that the index finds in each.
std::map<std::string, std::vector<std::string>> shards_of(const fs::path& index) {
  const auto json = wanpar::read_json(index);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty())
    throw wanpar::Error(fmt::format("{}: 'weight_map' {}, but must tell the file of each tensor",
                                    index.string(),
                                    map == json.end() ? "is missing" : "is " + wanpar::shown(*map)));
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !is_plain(shard.get<std::string>()))
      throw wanpar::Error(fmt::format("{}: '{}' lies in {}, which is not a plain file name", index.string(),
                                      tensor, wanpar::shown(shard)));
    shards[shard.get<std::string>()].push_back(tensor);
  }
  return shards;
}

Weights read_sharded(const fs::path& index) {
  Weights weights;
  for (const auto& [shard, names] : shards_of(index)) {
    const auto file = index.parent_path() / shard;
    if (!wanpar::is_there(file)) {
      throw wanpar::Error(fmt::format("{} is missing, which {} lists; download it", file.string(),
                                      index.filename().string()));
    }
    const auto tensors = wanpar::read_safetensors(file);
    for (const auto& name : names) {
      const auto found = tensors.find(name);
      if (found == tensors.end()) {
        throw wanpar::Error(fmt::format("{} has no tensor '{}', though {} lists it there", file.string(),
                                        name, index.filename().string()));
      }
      weights.emplace(name, Entry{found->second, file, name});
    }
  }
  return weights;
}

}  // namespace

Weights read_shards(const fs::path& folder, const std::string& stem) {
  const auto file = folder / (stem + ".safetensors");
  const auto index = folder / (stem + ".safetensors.index.json");
  if (wanpar::is_there(index)) return read_sharded(index);
  if (!wanpar::is_there(file)) {
    throw wanpar::Error(fmt::format("{} is missing, and so is {}; download one of them", file.string(),
                                    index.filename().string()));
  }
  Weights weights;
  for (auto& [name, tensor] : wanpar::read_safetensors(file))
    weights.emplace(name, Entry{tensor, file, name});
  return weights;
}

}  // namespace wan
