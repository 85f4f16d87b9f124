#pragma once
#include <doctest/doctest.h>

#include <filesystem>
#include <iterator>
#include <string>

#include "wanpar/core/error.hpp"

namespace wan_test {

/// A folder that is gone with the test.
struct Folder {
  std::filesystem::path path = [] {
    auto name = (std::filesystem::temp_directory_path() / "wan_test_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    return name;
  }();

  ~Folder() { std::filesystem::remove_all(path); }
  std::filesystem::path operator/(const std::string& name) const { return path / name; }
};

inline int64_t files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}
inline int64_t files_in(const Folder& folder) { return files_in(folder.path); }

/// What the Error says that `action` throws; empty when it throws none.
template <class Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const wanpar::Error& error) {
    return error.what();
  }
  return {};
}

/// Whether `text` has each of `parts`.
template <class... Parts>
bool says(const std::string& text, const Parts&... parts) {
  return ((text.find(parts) != std::string::npos) && ...);
}

}  // namespace wan_test
