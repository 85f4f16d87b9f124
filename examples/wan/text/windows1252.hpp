#pragma once
#include <optional>
#include <string>

namespace wan {

/// The character of a Windows-1252 byte; the five bytes without one stand for themselves.
char32_t from_windows1252(unsigned char byte);

/// The byte of a character in Windows-1252, if it has one.
std::optional<unsigned char> to_windows1252(char32_t character);

/// `text` with those stretches repaired that are UTF-8 read as Windows-1252, once or more often, as in
/// "doesnâ€™t". What may well be meant as it stands, "CAFÉ”" for one, stays.
std::u32string repair_mojibake(std::u32string text);

}  // namespace wan
