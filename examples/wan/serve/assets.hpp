#pragma once
#include <span>
#include <string_view>

namespace wan::serve {

/// A file that is in the program.
struct Asset {
  std::string_view name, bytes;
};

/// Those of the folder `page`, and openapi.json; made by CMake.
std::span<const Asset> assets();

}  // namespace wan::serve
