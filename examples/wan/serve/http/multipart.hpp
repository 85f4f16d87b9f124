#pragma once
#include <map>
#include <string>
#include <string_view>

namespace wan::serve {

/// Parses the text fields of a multipart/form-data form. Throws Refusal for a malformed body, a duplicate
/// field, and a file.
std::map<std::string, std::string> form_fields(std::string_view content_type, std::string_view body);

}  // namespace wan::serve
