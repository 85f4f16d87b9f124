#include "wan/io/new_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace wan {

NewFile::NewFile(std::filesystem::path path)
    : file_(std::move(path)),
      descriptor_(::open(file_.part().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) throw_write_error(file_.path(), std::strerror(errno));
}

NewFile::~NewFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void NewFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_write_error(file_.path(), std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void NewFile::commit() {
  if (::close(std::exchange(descriptor_, -1)) != 0) throw_write_error(file_.path(), std::strerror(errno));
  file_.commit();
}

}  // namespace wan
