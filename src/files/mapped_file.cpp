#include <wanpar/extend/files/mapped_file.hpp>

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

[[noreturn]] void refuse_to_read(const std::filesystem::path& path) {
  throw Error(fmt::format("{} cannot be read: {}", path.string(), std::strerror(errno)));
}

}  // namespace

bool is_there(const std::filesystem::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

std::shared_ptr<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};  // a pipe would wait for a writer
  struct stat status {};
  if (file.value < 0 || ::fstat(file.value, &status) != 0) refuse_to_read(path);
  if (!S_ISREG(status.st_mode)) throw Error(fmt::format("{} is not a regular file", path.string()));
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) throw Error(fmt::format("{} is empty; fetch it again", path.string()));

  // Private and writable: whoever changes a tensor in place gets pages of its own. No swap is set aside for
  // them.
  void* address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.value, 0);
  if (address == MAP_FAILED && errno == ENOMEM)
    throw Error(
        fmt::format("memory ran out mapping the {} bytes of {}: raise the limit of the address space "
                    "(ulimit -v)",
                    size, path.string()));
  if (address == MAP_FAILED) refuse_to_read(path);
  auto mapped = std::shared_ptr<MappedFile>(new MappedFile(path, address, size));
  if (mapped->bytes().starts_with("version https://git-lfs.github.com/spec/")) {
    throw Error(fmt::format(
        "{} is a Git LFS pointer, not the file it stands for; run 'git lfs pull' in its repository",
        path.string()));
  }
  return mapped;
}

MappedFile::MappedFile(std::filesystem::path path, void* address, size_t size)
    : path_(std::move(path)), address_(address), size_(size) {}

MappedFile::~MappedFile() { ::munmap(address_, size_); }

at::Tensor TensorLayout::of(const std::shared_ptr<MappedFile>& file) const {
  char* address = static_cast<char*>(file->address_) + offset;
  if (reinterpret_cast<uintptr_t>(address) % c10::elementSize(dtype) == 0) {
    return at::from_blob(
        address, sizes, strides, [file](void*) {}, at::dtype(dtype));
  }
  auto copy = at::empty_strided(sizes, strides, dtype);
  std::memcpy(copy.data_ptr(), address, copy.storage().nbytes());
  return copy;
}

}  // namespace wanpar
