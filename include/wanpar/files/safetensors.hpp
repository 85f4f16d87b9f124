#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/files/part_file.hpp>

#include <filesystem>
#include <map>
#include <string>

namespace wanpar {

/// The tensors of a .safetensors file, as views of its mapping, which they keep alive. Only the header is
/// read. Throws Error, naming file and key, for whatever the format's own checker refuses: a header that is
/// too large, truncated, not UTF-8 JSON or with a key twice in a tensor; offsets with holes or overlaps,
/// sizes that do not fit shape and dtype, bytes behind the last tensor; and for dtypes that LibTorch has no
/// use for. Format: https://huggingface.co/docs/safetensors
std::map<std::string, at::Tensor> read_safetensors(const std::filesystem::path& file);

/// Writes `tensors`, of any device and stride, so that `file` is either complete or untouched.
/// Throws Error when a dtype has no name in the format or the disk refuses the bytes.
void write_safetensors(const std::filesystem::path& file, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});
/// The same, for the caller to commit.
void write_safetensors(const PartFile& file, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace wanpar
