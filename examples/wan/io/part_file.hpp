#pragma once
#include <cstdint>
#include <filesystem>

namespace wan {

/// A file that appears whole or not at all: it is written under `part()`, beside its place, and commit()
/// flushes it to the disk and gives it its name. Without commit() nothing stays.
class PartFile {
 public:
  explicit PartFile(std::filesystem::path path);
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& part() const { return part_; }

  /// Throws Error when the disk refuses.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path part_;
};

/// Refuses early what would fail late: a path that is a folder, a folder that is missing or cannot be
/// written, and a disk with less than `expected_bytes` free. Throws Error, leaves no file.
void check_writable(const std::filesystem::path& path, uintmax_t expected_bytes);

/// Throws Error: `path` cannot be written for `reason`, and how much room the disk still has.
[[noreturn]] void throw_write_error(const std::filesystem::path& path, const char* reason);

}  // namespace wan
