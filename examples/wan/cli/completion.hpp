#pragma once
#include <string>

namespace wan {

struct About;

/// A script by which `shell` (bash, zsh or fish) completes the program's flags, the words that they take, and
/// files and folders.
std::string completion(const std::string& shell, const About& about);

}  // namespace wan
