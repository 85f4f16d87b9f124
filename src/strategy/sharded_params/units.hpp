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

/// By the user's prefixes; what none of them names is the unit "root". Throws Error for one that names
/// nothing.
Units units_by_prefix(const NamedTensors& parameters, const std::vector<std::string>& prefixes);

/// By the names alone: the items of the outermost numbered lists, of at least two modules alike, and beside
/// them the largest submodules that are no larger than the largest item.
Units units_by_name(const NamedTensors& parameters);

/// Each unit of fewer bytes is joined with those after it until they are as many, and named by its first and
/// its last.
Units join_small_units(Units units, const NamedTensors& parameters, int64_t min_bytes);

}  // namespace wanpar
