#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace wan {

/// A tensor of a checkpoint, the file it lies in, and the name that it has there.
struct Entry {
  at::Tensor tensor;
  std::filesystem::path file;
  std::string name = {};
};

/// Official parameter names and their tensors: on the CPU, in the dtype of the file, lying in the mapped
/// file.
using Weights = std::map<std::string, Entry>;

}  // namespace wan
