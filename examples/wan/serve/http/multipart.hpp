#pragma once
#include <map>
#include <string>
#include <string_view>

namespace wan::serve {

/// The fields of a form, as multipart/form-data has them, each a text. Throws Refusal for a body that is not
/// of this form, a field that is there twice, and a file.
std::map<std::string, std::string> form_fields(std::string_view content_type, std::string_view body);

}  // namespace wan::serve
