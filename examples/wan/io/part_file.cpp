#include "wan/io/part_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>
#include <wanpar/core/error.hpp>

namespace wan {
namespace fs = std::filesystem;
namespace {

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

int open_or_throw(const fs::path& file, const fs::path& path, int flags) {
  const int descriptor = ::open(file.c_str(), flags, 0666);
  if (descriptor < 0) throw_write_error(path, std::strerror(errno));
  return descriptor;
}

void sync_to_disk(const fs::path& file, const fs::path& path) {
  const int descriptor = open_or_throw(file, path, O_RDONLY | O_CLOEXEC);
  const int error = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  if (error != 0) throw_write_error(path, std::strerror(error));
}

}  // namespace

PartFile::PartFile(fs::path path) : path_(std::move(path)), part_(path_) { part_ += ".part"; }

PartFile::~PartFile() {
  std::error_code ignored;
  fs::remove(part_, ignored);
}

void PartFile::commit() {
  sync_to_disk(part_, path_);
  std::error_code error;
  fs::rename(part_, path_, error);
  if (error) throw_write_error(path_, error.message().c_str());
}

void check_writable(const fs::path& path, uintmax_t expected_bytes) {
  const auto folder = folder_of(path);
  if (!path.has_filename() || fs::is_directory(path))
    throw wanpar::Error(
        fmt::format("{} cannot be written: it is a folder; name a file in it", path.string()));
  if (!fs::is_directory(folder))
    throw wanpar::Error(fmt::format("{} cannot be written: there is no folder {}; create it first",
                                    path.string(), folder.string()));

  const PartFile trial(path);
  ::close(open_or_throw(trial.part(), path, O_WRONLY | O_CREAT | O_CLOEXEC));

  const auto free_bytes = fs::space(folder).available;
  if (free_bytes < expected_bytes)
    throw wanpar::Error(
        fmt::format("{} cannot be written: about {} bytes are needed, but only {} are free there",
                    path.string(), expected_bytes, free_bytes));
}

void throw_write_error(const fs::path& path, const char* reason) {
  std::error_code unknown;
  const auto space = fs::space(folder_of(path), unknown);
  const auto room = unknown ? std::string() : fmt::format("; {} bytes are free there", space.available);
  throw wanpar::Error(fmt::format("{} cannot be written: {}{}", path.string(), reason, room));
}

}  // namespace wan
