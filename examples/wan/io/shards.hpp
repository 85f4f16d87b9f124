#pragma once
#include <filesystem>
#include <string>

#include "wan/io/weights.hpp"

namespace wan {

/// The tensors that `stem`.safetensors.index.json in `folder` lists, from the shards in which it finds them:
/// what it does not list is not read. Where there is none, those of `stem`.safetensors. Names as in the
/// files.
/// Throws Error that names the file that is missing or damaged, or the tensor its shard lacks.
Weights read_shards(const std::filesystem::path& folder, const std::string& stem);

}  // namespace wan
