#pragma once
#include <string>
#include <vector>

#include "wan/cli/config_file.hpp"

namespace wan {

/// A flag's value, as set by the fields of a file.
struct Setting {
  std::string flag, value;
  std::string field;  ///< the field that sets it
};

struct Translated {
  std::vector<Setting> settings;
  std::vector<std::string> notes;  ///< on fields without effect here, and fields with another meaning
};

/// The fields of a configuration, translated to `flags`. A field has a flag's name, or the name that other
/// programs for Wan use (docs/coming-from.md). Throws UsageError, beginning with `where`, for an unknown
/// name, for a known field of a missing feature, and for contradictory fields.
Translated flags_of_fields(const std::vector<Field>& fields, const std::vector<std::string>& flags,
                           const std::string& where);

/// The names of fields that are not names of flags.
std::vector<std::string> foreign_fields();

}  // namespace wan
