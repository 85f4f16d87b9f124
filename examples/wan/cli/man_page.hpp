#pragma once
#include <string>

namespace wan {

struct About;

/// The page of section 1 for man: what the program is, its flags, its variables, its exit codes.
std::string man_page(const About& about, const std::string& version);

}  // namespace wan
