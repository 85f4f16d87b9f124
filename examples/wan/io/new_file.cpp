#include "wan/io/new_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "wanpar/core/error.hpp"

namespace wan {

NewFile::NewFile(std::filesystem::path path)
    : path_(std::move(path)),
      part_(path_.string() + ".part"),
      descriptor_(::open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) refuse();
}

NewFile::~NewFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!part_.empty()) ::unlink(part_.c_str());
}

void NewFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse();
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void NewFile::commit() {
  if (::fsync(descriptor_) != 0) refuse();
  if (::close(std::exchange(descriptor_, -1)) != 0) refuse();
  if (::rename(part_.c_str(), path_.c_str()) != 0) refuse();
  part_.clear();
}

void NewFile::refuse() const {
  throw wanpar::Error(fmt::format("{} cannot be written: {}", path_.string(), std::strerror(errno)));
}

}  // namespace wan
