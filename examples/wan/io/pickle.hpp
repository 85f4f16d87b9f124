#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace wan {

/// The tensors of a .pth file as torch.save writes a state dict since PyTorch 1.6: a zip archive of a pickle
/// and the storages. They are views of the mapped file, which they keep alive.
///
/// Nothing in the pickle is run: dictionaries, tensors and their storages are all it may make. Throws Error,
/// naming the file and what was met, for any other opcode or global, for anything but a dictionary of
/// tensors, and for tensors that reach outside their storage.
std::map<std::string, at::Tensor> read_pth(const std::filesystem::path& file);

}  // namespace wan
