#pragma once
#include <filesystem>
#include <string_view>

#include "wan/io/part_file.hpp"

namespace wan {

/// A PartFile that is written byte by byte.
/// Every function throws Error, naming the file and what the system said, a full disk among it.
class NewFile {
 public:
  explicit NewFile(std::filesystem::path path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(std::string_view bytes);

  /// Waits until the bytes are on the disk, then gives the file its name.
  void commit();

 private:
  PartFile file_;
  int descriptor_;
};

}  // namespace wan
