#pragma once
#include <string>
#include <vector>

#include "wan/cli/config_file.hpp"

namespace wan {

/// A flag's value, as the fields of a file give it.
struct Setting {
  std::string flag, value;
  std::string field;  ///< the one that says so
};

struct Translated {
  std::vector<Setting> settings;
  std::vector<std::string> notes;  ///< fields without effect here, and those that mean something else
};

/// What the fields of a configuration say in terms of `flags`. A field has a flag's name, or one that other
/// programs for Wan have for the same thing (docs/coming-from.md). Throws UsageError, beginning with `where`,
/// for a name that is neither, for what is known but not built here, and for fields that contradict one
/// another.
Translated flags_of_fields(const std::vector<Field>& fields, const std::vector<std::string>& flags,
                           const std::string& where);

/// The names of fields that are no flags' names.
std::vector<std::string> foreign_fields();

}  // namespace wan
