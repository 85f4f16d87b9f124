#pragma once
#include <wanpar/extend/files/part_file.hpp>

#include <filesystem>
#include <fstream>
#include <string_view>

namespace wanpar {

/// A stream of bytes into a PartFile. Every function throws Error, naming the file and what the system said,
/// a full disk among it.
class NewFile {
 public:
  /// `file` outlives this.
  explicit NewFile(const PartFile& file);

  void write(std::string_view bytes);

  /// Hands all bytes to the system; the caller commits the file then.
  void close();

 private:
  void check() const;

  const PartFile& file_;
  std::ofstream stream_;
};

/// Writes a file that appears whole or not at all. Throws Error.
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace wanpar
