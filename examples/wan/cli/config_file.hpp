#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace wan {

/// A name and a value of a configuration file; the value as it would be written for a flag: a list is its
/// items joined by commas.
struct Field {
  std::string name, value;
};

/// The fields of a file, in order: TOML if its name ends in .toml, otherwise JSON, in which // and /* */ are
/// comments. Null values are skipped, and the fields of an object are fields like any other. Throws
/// UsageError for a file that cannot be read, has a duplicate name, or holds anything else.
std::vector<Field> read_fields(const std::filesystem::path& file);

}  // namespace wan
