#pragma once
#include <wanpar/launch/connect.hpp>

#include <optional>
#include <string>

namespace wanpar {

/// A variable that is there and not empty.
std::optional<std::string> environment(const char* name);
/// Throws Error for one that is no number, and for one that is not there where `otherwise` is not given.
int number(const char* name, std::optional<int> otherwise = {});

/// WANPAR_BACKEND: gloo, nccl, or nothing. Throws Error for any other.
Backend find_backend();

}  // namespace wanpar
