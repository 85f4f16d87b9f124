#pragma once
#include <filesystem>
#include <string_view>

namespace wan {

/// A file that appears under its name only when it is complete; until then it grows beside it as `name.part`.
/// Every function throws Error, naming the file and what the system said, a full disk among it.
class NewFile {
 public:
  explicit NewFile(std::filesystem::path path);
  ~NewFile();  // removes the part that was not committed
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(std::string_view bytes);

  /// Waits until the bytes are on the disk, then gives the file its name.
  void commit();

 private:
  [[noreturn]] void refuse() const;

  std::filesystem::path path_;
  std::filesystem::path part_;
  int descriptor_;
};

}  // namespace wan
