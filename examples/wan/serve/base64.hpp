#pragma once
#include <string>
#include <string_view>

namespace wan::serve {

std::string base64(std::string_view bytes);

}  // namespace wan::serve
