#pragma once
#include <map>
#include <string>
#include <vector>

// The names in other programs for Wan: Wan's own code, its wrapper for ComfyUI, DistriFusion.
namespace wan {

/// Fields with another name here.
const std::map<std::string, std::string>& renamed_fields();

/// A field of a missing feature: accepted with values that switch it off.
struct NotBuilt {
  std::vector<std::string> taken;  ///< the accepted values, which request what is done here anyway
  const char* instead;             ///< the alternative
};

const std::map<std::string, NotBuilt>& fields_not_built();

/// Fields whose meaning depends on other fields.
const std::vector<std::string>& joint_fields();

}  // namespace wan
