#pragma once
#include <filesystem>
#include <fstream>
#include <string_view>

#include "wan/io/part_file.hpp"

namespace wan {

/// A stream of bytes into a PartFile. Every function throws Error, naming the file and what the system said,
/// a full disk among it.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& path);

  void write(std::string_view bytes);

  /// Waits until the bytes are on the disk, then gives the file its name.
  void commit();

 private:
  void check() const;

  PartFile part_;
  std::ofstream stream_;
};

}  // namespace wan
