#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

namespace wanpar {

/// A file that appears complete or not at all: it is written as `part()`, a temporary file in the same
/// folder, and commit() flushes it to disk and renames it. Without commit() the temporary file is removed,
/// also when a signal ends the program (remove_parts_on_signals). A symbolic link is kept, and its target is
/// written.
class PartFile {
 public:
  /// Creates the temporary file, empty. Throws Error if the disk fails.
  explicit PartFile(std::filesystem::path path);
  ~PartFile();
  PartFile(PartFile&& other) noexcept;
  PartFile& operator=(PartFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& part() const { return part_; }

  /// Throws Error if the disk fails.
  void commit();

 private:
  friend void commit_all(std::vector<PartFile> files);
  void flush() const;

  std::filesystem::path path_;
  std::filesystem::path target_;  // path_ with symbolic links resolved
  std::filesystem::path part_;
};

/// Commits all files or none: if one cannot be renamed, those before it are restored. Throws Error then.
void commit_all(std::vector<PartFile> files);

/// From now on SIGINT, SIGTERM and SIGHUP, unless ignored, remove all temporary files before they end the
/// process.
void remove_parts_on_signals();

/// Ends the process at once, as by std::_Exit, and removes the parts there are; files that are being renamed
/// are renamed first.
[[noreturn]] void end_without_parts(int status);

/// The absolute path with symbolic links resolved.
std::filesystem::path target_of(const std::filesystem::path& path);

/// Throws Error for a path that cannot be written: a folder, a device or a pipe, a missing or read-only
/// folder, a name that is too long, and a disk with less than `expected_bytes` free. Leaves no file.
void check_writable(const std::filesystem::path& path, uintmax_t expected_bytes);

/// Throws Error: `path` cannot be written for `reason`, with the free space of the disk.
[[noreturn]] void throw_write_error(const std::filesystem::path& path, const char* reason);

}  // namespace wanpar
