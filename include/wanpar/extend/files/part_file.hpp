#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

namespace wanpar {

/// A file that appears whole or not at all: it is written under `part()`, a name of its own beside its place,
/// and commit() flushes it to the disk and gives it its name. Without commit() nothing stays, also where a
/// signal ends the program (remove_parts_on_signals). A path that is a symbolic link stays one: what it
/// points to is written.
class PartFile {
 public:
  /// Makes the part, empty. Throws Error when the disk refuses.
  explicit PartFile(std::filesystem::path path);
  ~PartFile();
  PartFile(PartFile&& other) noexcept;
  PartFile& operator=(PartFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& part() const { return part_; }

  /// Throws Error when the disk refuses.
  void commit();

 private:
  friend void commit_all(std::vector<PartFile> files);
  void flush() const;

  std::filesystem::path path_;
  std::filesystem::path target_;  // path_, links followed
  std::filesystem::path part_;
};

/// Gives all files their names, or none: where one cannot have it, those before it are as they were. Throws
/// Error then.
void commit_all(std::vector<PartFile> files);

/// From now on SIGINT, SIGTERM and SIGHUP, where they are not ignored, remove the parts there are before they
/// end the process.
void remove_parts_on_signals();

/// The file that a path names, links followed, as an absolute path.
std::filesystem::path target_of(const std::filesystem::path& path);

/// Refuses early what would fail late: a path that is a folder, a device or a pipe, a folder that is missing
/// or cannot be written, a name that is too long, and a disk with less than `expected_bytes` free. Throws
/// Error, leaves no file.
void check_writable(const std::filesystem::path& path, uintmax_t expected_bytes);

/// Throws Error: `path` cannot be written for `reason`, and how much room the disk still has.
[[noreturn]] void throw_write_error(const std::filesystem::path& path, const char* reason);

}  // namespace wanpar
