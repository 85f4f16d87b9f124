#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/files/part_file.hpp>

#include <filesystem>
#include <map>
#include <string>

namespace wanpar {

/// The tensors of a .safetensors file, as views of its mapping, which they keep alive. Only the header is
/// read. Throws Error, with file and key, for everything that the safetensors library rejects: a header that
/// is too large, truncated, not UTF-8 JSON, or has a duplicate key in a tensor; offsets with holes or
/// overlaps; sizes that do not match shape and dtype; bytes after the last tensor; and for dtypes that
/// LibTorch does not support. Format: https://huggingface.co/docs/safetensors
std::map<std::string, at::Tensor> read_safetensors(const std::filesystem::path& file);

/// Writes `tensors`, on any device and with any strides, so that `file` is either complete or untouched.
/// Throws Error if the format does not support a dtype, or if the disk fails.
void write_safetensors(const std::filesystem::path& file, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});
/// As above; the caller commits the file.
void write_safetensors(const PartFile& file, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace wanpar
