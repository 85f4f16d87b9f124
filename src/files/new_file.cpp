#include <wanpar/extend/files/new_file.hpp>

#include <cerrno>
#include <cstring>

namespace wanpar {

NewFile::NewFile(const PartFile& file) : file_(file), stream_(file.part(), std::ios::binary) { check(); }

void NewFile::write(std::string_view bytes) {
  stream_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  check();
}

void NewFile::close() {
  stream_.close();
  check();
}

void NewFile::check() const {
  if (!stream_) throw_write_error(file_.path(), std::strerror(errno));
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  PartFile part(path);
  NewFile file(part);
  file.write(text);
  file.close();
  part.commit();
}

}  // namespace wanpar
