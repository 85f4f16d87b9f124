#pragma once
#include <string>

namespace wan {

struct About;

/// A completion script for `shell` (bash, zsh or fish): for the program's flags, their values, and files and
/// folders.
std::string completion(const std::string& shell, const About& about);

}  // namespace wan
