#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace wanpar {

/// Whether the path exists; true also without permission to look, which opening it then reports.
bool is_there(const std::filesystem::path& path);

/// A file mapped into memory, copy-on-write: pages are read on first access, writes never reach the file.
class MappedFile {
 public:
  /// Throws Error if the file cannot be opened, is empty, or is a Git LFS pointer instead of the data.
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

/// The location of a tensor in a file: `offset` in bytes, `strides` in elements. The caller checks the
/// bounds.
struct TensorLayout {
  uint64_t offset;
  std::span<const int64_t> sizes;
  std::span<const int64_t> strides;
  at::ScalarType dtype;

  /// The tensor, as a view of the mapping, which it keeps alive; copied only if it is misaligned in the file.
  at::Tensor of(const std::shared_ptr<MappedFile>& file) const;
};

}  // namespace wanpar
