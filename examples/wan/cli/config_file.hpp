#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace wan {

/// A name and a value of a configuration file; the value as a flag would have it: a list is its items with
/// commas between them.
struct Field {
  std::string name, value;
};

/// The fields of a file, in its order: TOML where its name ends so, else JSON, in which // and /* */ are
/// comments. What is null is left out, and the fields of an object in the place of a value are fields like
/// any other. Throws UsageError for a file that cannot be read, says a name twice, or holds anything else.
std::vector<Field> read_fields(const std::filesystem::path& file);

}  // namespace wan
