#pragma once
#include <string>

namespace wan {

/// The prompt as Wan's training saw it: what the Python pipelines get from ftfy.fix_text, two rounds of
/// html.unescape and a collapse of white space. Entities are resolved, UTF-8 that was read as Windows-1252 is
/// repaired, full-width forms, ligatures and curly quotes are folded, control characters are dropped, and the
/// text is normalised to NFC. Without it the prompt, the default negative prompt above all, has other tokens.
/// Throws Error when `utf8` is not valid UTF-8.
std::string clean(const std::string& utf8);

}  // namespace wan
