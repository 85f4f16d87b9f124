#include "wan/io/folder.hpp"

#include <fmt/format.h>

#include <system_error>
#include <wanpar/extend/files/mapped_file.hpp>

#include "wanpar/core/error.hpp"

namespace wan {

const char* const kTwoExperts =
    "a model with two transformers, as Wan2.2 A14B, which is not built; give a Wan2.1 text-to-video "
    "checkpoint";

bool is_folder(const std::filesystem::path& path) {
  std::error_code no;
  return std::filesystem::is_directory(path, no);
}

void require_file(const std::filesystem::path& file) {
  if (!wanpar::is_there(file)) throw wanpar::Error(file.string() + " is missing; download it");
}

Settings settings_of(const std::filesystem::path& file) {
  require_file(file);
  return Settings(file);
}

std::filesystem::path tokenizer_in(const std::filesystem::path& folder) {
  for (const auto* name : {"tokenizer.json", "spiece.model"})
    if (wanpar::is_there(folder / name)) return folder / name;
  throw wanpar::Error(
      fmt::format("{} is missing, and so is tokenizer.json; download one of them, the repository "
                  "google/umt5-xxl has both",
                  (folder / "spiece.model").string()));
}

}  // namespace wan
