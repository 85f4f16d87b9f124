#pragma once
#include <wanpar/extend/files/part_file.hpp>

#include <filesystem>
#include <fstream>
#include <string_view>

namespace wanpar {

/// An output stream into a PartFile. Every function throws Error, with the file and the system's error (such
/// as a full disk).
class NewFile {
 public:
  /// `file` outlives this.
  explicit NewFile(const PartFile& file);

  void write(std::string_view bytes);

  /// Flushes all bytes to the system; the caller then commits the file.
  void close();

 private:
  void check() const;

  const PartFile& file_;
  std::ofstream stream_;
};

/// Writes a file that appears complete or not at all. Throws Error.
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace wanpar
