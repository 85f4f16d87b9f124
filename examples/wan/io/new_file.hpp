#pragma once
#include <fstream>
#include <string_view>

#include "wan/io/part_file.hpp"

namespace wan {

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

}  // namespace wan
