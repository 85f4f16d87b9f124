#include "wan/io/new_file.hpp"

#include <cerrno>
#include <cstring>

namespace wan {

NewFile::NewFile(const std::filesystem::path& path) : part_(path), stream_(part_.part(), std::ios::binary) {
  check();
}

void NewFile::write(std::string_view bytes) {
  stream_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  check();
}

void NewFile::commit() {
  stream_.close();
  check();
  part_.commit();
}

void NewFile::check() const {
  if (!stream_) throw_write_error(part_.path(), std::strerror(errno));
}

}  // namespace wan
