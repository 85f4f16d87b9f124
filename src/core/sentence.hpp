#pragma once
#include <string>

namespace wanpar {

/// The first line of an error message: LibTorch's errors end with a stack trace.
inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// Call in a catch block: the message of the current exception.
std::string sentence_at_hand();

}  // namespace wanpar
