#pragma once
#include <wanpar/module/parameters.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace wanpar {

/// Which unit each parameter belongs to.
struct Units {
  std::vector<std::string> names;
  std::vector<int> of_parameter;
};

/// Units by the user's prefixes; all other parameters form the unit "root". Throws Error for a prefix without
/// parameters.
Units units_by_prefix(const NamedTensors& parameters, const std::vector<std::string>& prefixes);

/// Units inferred from names: the items of the outermost numbered lists (of at least two modules of equal
/// structure), and the largest other submodules that are no larger than the largest item.
Units units_by_name(const NamedTensors& parameters);

/// Merges each unit of fewer bytes with the following ones until they reach `min_bytes`; a merged unit is
/// named by its first and last unit.
Units join_small_units(Units units, const NamedTensors& parameters, int64_t min_bytes);

}  // namespace wanpar
