#pragma once
#include <string>

#include "wan_top/reading.hpp"

namespace wan_top {

/// Two tables, of devices and of ranks, in lines of at most `width` characters.
std::string screen(const Reading& reading, size_t width);
/// {"host", "source", "devices": [...], "ranks": [...]}; unknown values are null. Units: bytes, percent,
/// degrees Celsius, watts, MHz.
std::string json(const Reading& reading);

}  // namespace wan_top
