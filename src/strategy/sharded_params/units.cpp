#include "strategy/sharded_params/units.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

const char* kRoot = "root";

bool lies_under(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) && (name.size() == prefix.size() || name[prefix.size()] == '.');
}

/// "blocks.3.attn.weight": "blocks", "blocks.3", "blocks.3.attn"; outermost first.
std::vector<std::string> modules_above(const std::string& name) {
  std::vector<std::string> modules;
  for (auto dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1))
    modules.push_back(name.substr(0, dot));
  return modules;
}

/// Of a list, as blocks.3, or numbered by hand, as layer3.
bool is_numbered(const std::string& module) {
  return std::isdigit(static_cast<unsigned char>(module.back()));
}

/// Each parameter into the unit that `unit_of` names for it, units in the order of their first parameter.
template <class UnitOf>
Units divide(const NamedTensors& parameters, const UnitOf& unit_of) {
  Units units;
  for (auto& parameter : parameters) {
    auto unit = unit_of(parameter.name);
    auto known = std::find(units.names.begin(), units.names.end(), unit);
    units.of_parameter.push_back(static_cast<int>(known - units.names.begin()));
    if (known == units.names.end()) units.names.push_back(unit);
  }
  return units;
}

}  // namespace

Units units_by_prefix(const NamedTensors& parameters, const std::vector<std::string>& prefixes) {
  for (auto& prefix : prefixes)
    if (std::none_of(parameters.begin(), parameters.end(),
                     [&](auto& parameter) { return lies_under(parameter.name, prefix); }))
      throw Error(
          fmt::format("ShardedParams: .units names '{}', where the module has no parameters; known are {}",
                      prefix, fmt::join(units_by_name(parameters).names, ", ")));
  return divide(parameters, [&](const std::string& name) {
    const std::string* longest = nullptr;
    for (auto& prefix : prefixes)
      if (lies_under(name, prefix) && (!longest || prefix.size() > longest->size())) longest = &prefix;
    return longest ? *longest : std::string(kRoot);
  });
}

Units units_by_name(const NamedTensors& parameters) {
  std::map<std::string, int64_t> bytes;
  for (auto& [name, tensor] : parameters)
    for (auto& module : modules_above(name)) bytes[module] += static_cast<int64_t>(tensor.nbytes());

  int64_t largest = 0;
  for (auto& [name, tensor] : parameters) {
    auto modules = modules_above(name);
    auto item = std::find_if(modules.begin(), modules.end(), is_numbered);
    if (item != modules.end()) largest = std::max(largest, bytes[*item]);
  }
  return divide(parameters, [&](const std::string& name) {
    auto modules = modules_above(name);
    for (auto& module : modules)
      if (largest == 0 || is_numbered(module) || bytes[module] <= largest) return module;
    return modules.empty() ? std::string(kRoot) : modules.back();
  });
}

}  // namespace wanpar
