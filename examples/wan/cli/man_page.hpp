#pragma once
#include <string>

namespace wan {

struct About;

/// The man page in section 1: the program's purpose, flags, variables, exit codes.
std::string man_page(const About& about, const std::string& version);

}  // namespace wan
