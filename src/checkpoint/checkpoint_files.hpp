#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/module/parameters.hpp>

#include <filesystem>
#include <map>
#include <string>

#include "checkpoint/checkpoint_layout.hpp"

namespace wanpar {

inline constexpr const char* kCheckpointIndex = "index.json";
inline constexpr const char* kCheckpointFormat = "wanpar checkpoint 1";

/// "00002-of-00004.safetensors".
std::string checkpoint_file(int rank, int ranks);

/// Whether a folder is a checkpoint written by save_state_dict.
bool is_checkpoint(const std::filesystem::path& folder);

/// Reads the files of a checkpoint. A file is opened when its elements are needed, and only those are read.
/// Throws Error, with the file.
class CheckpointFiles {
 public:
  explicit CheckpointFiles(std::filesystem::path folder);

  const StoredTensors& tensors() const { return tensors_; }
  const nlohmann::json& optimizers() const { return optimizers_; }
  const std::filesystem::path& index() const { return index_; }

  /// Throws Error unless the checkpoint has a tensor of this name, shape and dtype, with these elements.
  void check(const NamedTensor& to);
  /// Reads into a tensor that has been checked.
  void read(const NamedTensor& to);

 private:
  const StoredTensor& stored(const std::string& name) const;
  at::Tensor elements(const std::string& name, const StoredTensor::Chunk& chunk);
  void read_flat(const std::string& name, at::Tensor to, int64_t begin);

  std::filesystem::path folder_, index_;
  int ranks_ = 0;
  StoredTensors tensors_;
  nlohmann::json optimizers_;
  std::map<int, std::map<std::string, at::Tensor>> files_;
};

}  // namespace wanpar
