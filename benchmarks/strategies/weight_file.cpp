#include "weight_file.hpp"

#include <ATen/ATen.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace {

int64_t carried_out(ssize_t bytes, const char* what) {
  if (bytes <= 0) throw std::system_error(bytes < 0 ? errno : EIO, std::generic_category(), what);
  return bytes;
}

}  // namespace

WeightFile::WeightFile(const torch::nn::Module& module) {
  auto path = (std::filesystem::temp_directory_path() / "weights.XXXXXX").string();
  file_ = mkstemp(path.data());
  if (file_ < 0) throw std::system_error(errno, std::generic_category(), path);
  unlink(path.c_str());  // it ends with its last reader
  for (auto& item : module.named_parameters()) {
    auto values = item.value().detach().contiguous();
    places_[item.key()] = {size_, values.options()};
    auto* bytes = static_cast<const char*>(values.const_data_ptr());
    for (int64_t at = 0, end = static_cast<int64_t>(values.nbytes()); at < end;)
      at += carried_out(pwrite(file_, bytes + at, end - at, size_ + at), "weights cannot be written");
    size_ += static_cast<int64_t>(values.nbytes());
  }
}

WeightFile::~WeightFile() { close(file_); }

at::Tensor WeightFile::read(const std::string& name, int64_t begin, int64_t end) {
  auto& [offset, options] = places_.at(name);
  auto values = at::empty({end - begin}, options);
  auto from = offset + begin * static_cast<int64_t>(values.element_size());
  auto* bytes = static_cast<char*>(values.mutable_data_ptr());
  for (int64_t at = 0, count = static_cast<int64_t>(values.nbytes()); at < count;) {
    auto got = carried_out(pread(file_, bytes + at, count - at, from + at), "weights cannot be read");
    at += got, read_ += got;
  }
  return values;
}
