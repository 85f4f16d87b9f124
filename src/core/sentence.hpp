#pragma once
#include <string>

namespace wanpar {

/// LibTorch's errors end with a stack trace.
inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// To be called in a catch block: what is to be said of the exception at hand.
std::string sentence_at_hand();

}  // namespace wanpar
