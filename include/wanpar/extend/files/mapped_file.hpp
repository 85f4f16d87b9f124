#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace wanpar {

/// Whether there is something of this name; who may not look, finds out when it is opened.
bool is_there(const std::filesystem::path& path);

/// A whole file in memory, read from disk as it is touched. Writes to the memory never reach the file.
class MappedFile {
 public:
  /// Throws Error when the file cannot be opened, is empty, or is a Git LFS pointer in place of the data.
  static std::shared_ptr<MappedFile> open(const std::filesystem::path& path);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return {static_cast<const char*>(address_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  friend struct TensorLayout;
  MappedFile(std::filesystem::path path, void* address, size_t size);

  std::filesystem::path path_;
  void* address_;
  size_t size_;
};

/// Where a tensor lies in a file: `offset` in bytes, `strides` in elements. The caller has checked the
/// bounds.
struct TensorLayout {
  uint64_t offset;
  std::span<const int64_t> sizes;
  std::span<const int64_t> strides;
  at::ScalarType dtype;

  /// The tensor itself, lying in the mapping and keeping it alive; copied only where the file misaligns it.
  at::Tensor of(const std::shared_ptr<MappedFile>& file) const;
};

}  // namespace wanpar
