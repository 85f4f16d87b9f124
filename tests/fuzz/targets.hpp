#pragma once
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <wanpar/extend/files/json.hpp>
#include <wanpar/extend/files/mapped_file.hpp>
#include <wanpar/files/safetensors.hpp>

#include "wan/io/configs.hpp"
#include "wan/io/pickle.hpp"
#include "wan/io/settings.hpp"
#include "wan/io/zip.hpp"
#include "wan/text/tokenizer.hpp"
#include "wanpar/core/error.hpp"

// What any bytes must do to each reader of files: they are read, or refused by an Error. scripts/fuzz makes a
// fuzzer of each, and the test "fuzz" gives them what fuzzers and people have found.
namespace wan_fuzz {

/// A file in memory.
class File {
 public:
  explicit File(std::string_view bytes) : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
    if (::write(descriptor_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
  }
  ~File() { ::close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  std::filesystem::path path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

/// Reads every byte of a tensor, so that one that reaches outside of its file is found.
inline void touch(const at::Tensor& tensor) {
  volatile unsigned char sum = 0;
  if (tensor.numel() == 0) return;
  const auto* first = static_cast<const unsigned char*>(tensor.const_data_ptr());
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  const auto bytes = (last + 1) * static_cast<int64_t>(tensor.element_size());
  for (int64_t i = 0; i < bytes; ++i) sum = sum + first[i];
}

template <class Action>
void read_or_refuse(Action action) {
  try {
    action();
  } catch (const wanpar::Error&) {  // anything else ends the program
  }
}

inline void safetensors(std::string_view bytes) {
  const File file(bytes);
  read_or_refuse([&] {
    for (const auto& [name, tensor] : wanpar::read_safetensors(file.path()))
      if (tensor.nbytes() <= bytes.size()) touch(tensor);
  });
}

inline void pickle(std::string_view bytes) {
  const File file(bytes);
  read_or_refuse([&] {
    for (const auto& [name, tensor] : wan::read_pth(file.path())) touch(tensor);
  });
}

inline void zip(std::string_view bytes) {
  const File file(bytes);
  read_or_refuse([&] {
    const auto mapped = wanpar::MappedFile::open(file.path());
    for (const auto& [name, entry] : wan::zip_entries(*mapped))
      if (entry.offset > mapped->bytes().size() || entry.size > mapped->bytes().size() - entry.offset)
        std::abort();
  });
}

inline void config(std::string_view bytes) {
  read_or_refuse([&] {
    const wan::Settings settings(wanpar::parse_json(bytes, "config.json"), "config.json");
    read_or_refuse([&] { wan::diffusers_transformer_config(settings); });
    read_or_refuse([&] { wan::diffusers_vae_config(settings); });
    read_or_refuse([&] { wan::check_official(settings); });
  });
}

inline void tokenizer(std::string_view bytes) {
  const auto file = std::filesystem::temp_directory_path() / fmt::format("fuzz_{}.json", ::getpid());
  const bool is_json = bytes.starts_with('{');
  const File copy(bytes);
  std::error_code ignored;
  std::filesystem::remove(file, ignored);
  if (is_json) std::filesystem::create_symlink(copy.path(), file);
  read_or_refuse([&] {
    wan::Tokenizer(is_json ? file : copy.path()).encode("A red fox </s> <extra_id_0> 红色 \u00b2");
  });
  std::filesystem::remove(file, ignored);
}

}  // namespace wan_fuzz
