#pragma once
#include <filesystem>
#include <string>

#include "wan/io/safetensors.hpp"

namespace wan {

/// The tensors of `folder`/`stem`.safetensors or, where that is split, of the shards that
/// `stem`.safetensors.index.json lists. Names as in the files.
/// Throws Error that names the file that is missing or damaged, or the tensor its shard lacks.
Weights read_shards(const std::filesystem::path& folder, const std::string& stem);

}  // namespace wan
