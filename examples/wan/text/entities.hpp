#pragma once
#include <string>

namespace wan {

/// `text` with its HTML entities resolved: numeric ones, and the named ones of HTML 4 (those of Latin-1, as
/// in HTML 5, with or without their semicolon).
std::u32string unescape_html(const std::u32string& text);

}  // namespace wan
