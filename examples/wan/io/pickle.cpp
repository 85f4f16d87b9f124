#include "wan/io/pickle.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <wanpar/extend/files/mapped_file.hpp>

#include "wan/io/unpickler.hpp"
#include "wan/io/zip.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

/// A .pth file: its entries, all below one folder whose name torch.save takes from the file.
class Archive {
 public:
  explicit Archive(const std::filesystem::path& path) : file_(wanpar::MappedFile::open(path)) {
    if (!file_->bytes().starts_with("PK")) {
      throw wanpar::Error(fmt::format(
          "{} is not a zip archive as torch.save writes it; load and save it again with PyTorch 1.6 or newer",
          path.string()));
    }
    entries_ = zip_entries(*file_);
    constexpr std::string_view kProgram = "/data.pkl";
    for (const auto& [name, entry] : entries_) {
      if (name.ends_with(kProgram)) folder_ = name.substr(0, name.size() - kProgram.size());
    }
    if (contains("byteorder") && bytes("byteorder") != "little") {
      throw wanpar::Error(path.string() + " is not little-endian; save it again on such a machine");
    }
  }

  std::string_view program() const { return bytes("data.pkl"); }

  at::Tensor tensor(const std::string& key, const pickled::Tensor& tensor) const {
    const auto entry = find("data/" + tensor.storage.key);
    check_bounds(key, tensor, entry.size);
    const wanpar::TensorLayout layout{entry.offset + tensor.offset * c10::elementSize(tensor.storage.dtype),
                                      tensor.sizes, tensor.strides, tensor.storage.dtype};
    return layout.of(file_);
  }

 private:
  bool contains(const std::string& name) const { return entries_.contains(folder_ + "/" + name); }

  ZipEntry find(const std::string& name) const {
    const auto found = entries_.find(folder_ + "/" + name);
    if (found != entries_.end()) return found->second;
    throw wanpar::Error(fmt::format("{} has no entry '{}'", file_->path().string(), name));
  }

  std::string_view bytes(const std::string& name) const {
    const auto entry = find(name);
    return file_->bytes().substr(entry.offset, entry.size);
  }

  /// The storage must have the bytes it claims, and the tensor's last element must lie in it.
  void check_bounds(const std::string& key, const pickled::Tensor& tensor, uint64_t bytes) const {
    const int64_t elements = static_cast<int64_t>(bytes / c10::elementSize(tensor.storage.dtype));
    bool fits = tensor.storage.elements == elements && tensor.offset >= 0 && tensor.offset <= elements &&
                tensor.sizes.size() == tensor.strides.size();
    bool is_empty = false;
    int64_t last = tensor.offset, count = 1;
    for (size_t i = 0; fits && i < tensor.sizes.size(); ++i) {
      const int64_t size = tensor.sizes[i], stride = tensor.strides[i];
      int64_t reach = 0;
      is_empty |= size == 0;
      fits = size >= 0 && stride >= 0 && !__builtin_mul_overflow(std::max<int64_t>(size, 1), count, &count) &&
             !__builtin_mul_overflow(std::max<int64_t>(size, 1) - 1, stride, &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    }
    if (fits && (is_empty || last < elements)) return;
    throw wanpar::Error(fmt::format(
        "{}: tensor '{}' of shape [{}], strides [{}] and offset {} does not fit its storage of {} elements",
        file_->path().string(), key, fmt::join(tensor.sizes, ", "), fmt::join(tensor.strides, ", "),
        tensor.offset, elements));
  }

  std::shared_ptr<wanpar::MappedFile> file_;
  std::map<std::string, ZipEntry> entries_;
  std::string folder_;
};

template <class T>
const T& expect(const pickled::Value& value, const std::string& file, const std::string& what) {
  const auto* content = std::get_if<T>(&value.content);
  if (content == nullptr) throw wanpar::Error(fmt::format("{}: {}", file, what));
  return *content;
}

const pickled::Value& run(Unpickler& unpickler, const std::string& file) {
  try {
    return unpickler.run();
  } catch (const wanpar::Error& error) {
    throw wanpar::Error(fmt::format("{}: {}", file, error.what()));
  }
}

}  // namespace

std::map<std::string, at::Tensor> read_pth(const std::filesystem::path& path) {
  const auto file = path.string();
  const Archive archive(path);
  Unpickler unpickler(archive.program());
  const auto& state = expect<pickled::Dict>(run(unpickler, file), file, "holds no dictionary of tensors");

  std::map<std::string, at::Tensor> tensors;
  for (const auto& [key, value] : state.items) {
    const auto& name = expect<std::string>(*key, file, "has a key that is no string");
    const auto& tensor = expect<pickled::Tensor>(*value, file, fmt::format("'{}' is no tensor", name));
    if (!tensors.emplace(name, archive.tensor(name, tensor)).second) {
      throw wanpar::Error(fmt::format("{}: the key '{}' occurs twice", file, name));
    }
  }
  return tensors;
}

}  // namespace wan
