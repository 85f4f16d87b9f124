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

/// The modules of a parameter name, outermost first: "blocks", "blocks.3", "blocks.3.attn" for
/// "blocks.3.attn.weight".
std::vector<std::string> modules_above(const std::string& name) {
  std::vector<std::string> modules;
  for (auto dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1))
    modules.push_back(name.substr(0, dot));
  return modules;
}

/// The modules with parameters, inferred from names.
class Modules {
 public:
  explicit Modules(const NamedTensors& parameters) {
    for (auto& [name, tensor] : parameters)
      for (auto& module : modules_above(name)) {
        auto& content = contents_[module];
        content.bytes += static_cast<int64_t>(tensor.nbytes());
        content.names += name.substr(module.size()) + '\n';
      }
    for (auto& [module, content] : contents_) ++alike_[kind_of(module)];
  }

  int64_t bytes(const std::string& module) const { return contents_.at(module).bytes; }

  /// Whether it is an item of a list (blocks.3), or a numbered member (layer3), with another of the same
  /// structure.
  bool is_item(const std::string& module) const {
    return std::isdigit(static_cast<unsigned char>(module.back())) && alike_.at(kind_of(module)) > 1;
  }

 private:
  struct Content {
    int64_t bytes = 0;
    std::string names;  // of its parameters, relative to it
  };

  /// The structure: the name without its number, and the relative names of its parameters.
  std::string kind_of(const std::string& module) const {
    return module.substr(0, module.find_last_not_of("0123456789") + 1) + '\n' + contents_.at(module).names;
  }

  std::map<std::string, Content> contents_;
  std::map<std::string, int> alike_;  // the number of modules of each structure
};

/// Assigns each parameter to the unit that `unit_of` names; units are in the order of their first parameter.
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
      throw UsageError(
          fmt::format("ShardedParams: .units names '{}', where the module has no parameters; known are {}",
                      prefix, fmt::join(units_by_name(parameters).names, ", ")));
  return divide(parameters, [&](const std::string& name) {
    const std::string* longest = nullptr;
    for (auto& prefix : prefixes)
      if (lies_under(name, prefix) && (!longest || prefix.size() > longest->size())) longest = &prefix;
    return longest ? *longest : std::string(kRoot);
  });
}

Units join_small_units(Units units, const NamedTensors& parameters, int64_t min_bytes) {
  std::vector<int64_t> bytes(units.names.size());
  for (size_t i = 0; i < parameters.size(); ++i)
    bytes[units.of_parameter[i]] += static_cast<int64_t>(parameters[i].tensor.nbytes());
  Units joined;
  std::vector<int> becomes;
  for (size_t first = 0; first < bytes.size();) {
    auto end = first;
    for (int64_t sum = 0; end < bytes.size() && (end == first || sum < min_bytes); ++end) {
      sum += bytes[end];
      becomes.push_back(static_cast<int>(joined.names.size()));
    }
    const auto& name = units.names[first];
    joined.names.push_back(end - first == 1 ? name : fmt::format("{} to {}", name, units.names[end - 1]));
    first = end;
  }
  for (auto unit : units.of_parameter) joined.of_parameter.push_back(becomes[unit]);
  return joined;
}

Units units_by_name(const NamedTensors& parameters) {
  const Modules known(parameters);
  auto is_item = [&](const std::string& module) { return known.is_item(module); };
  int64_t largest = 0;
  for (auto& [name, tensor] : parameters) {
    auto modules = modules_above(name);
    auto item = std::find_if(modules.begin(), modules.end(), is_item);
    if (item != modules.end()) largest = std::max(largest, known.bytes(*item));
  }
  return divide(parameters, [&](const std::string& name) {
    auto modules = modules_above(name);
    for (auto& module : modules)
      if (largest == 0 || is_item(module) || known.bytes(module) <= largest) return module;
    return modules.empty() ? std::string(kRoot) : modules.back();
  });
}

}  // namespace wanpar
