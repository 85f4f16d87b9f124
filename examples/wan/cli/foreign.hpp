#pragma once
#include <map>
#include <string>
#include <vector>

// The words of other programs for Wan: Wan's own code, its wrapper for ComfyUI, DistriFusion.
namespace wan {

/// Fields that are called otherwise here.
const std::map<std::string, std::string>& renamed_fields();

/// A field of something that is not built: it is taken with the values that ask for nothing.
struct NotBuilt {
  std::vector<std::string> taken;  ///< the values that are what is done here anyway
  const char* instead;             ///< what there is
};

const std::map<std::string, NotBuilt>& fields_not_built();

/// Fields whose meaning depends on others.
const std::vector<std::string>& joint_fields();

}  // namespace wan
