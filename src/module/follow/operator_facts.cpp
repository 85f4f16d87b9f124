#include "module/follow/operator_facts.hpp"

#include <ATen/core/dispatch/Dispatcher.h>

#include <string_view>
#include <unordered_set>

namespace wanpar {
namespace {

/// "add" for "add_"; "__and__" is unchanged.
std::string_view without_underscore(std::string_view name) {
  return name.ends_with("_") && !name.ends_with("__") ? name.substr(0, name.size() - 1) : name;
}

bool fills(const std::string& name) {
  static const std::unordered_set<std::string> names{"aten::empty",    "aten::zeros",       "aten::ones",
                                                     "aten::full",     "aten::new_empty",   "aten::new_zeros",
                                                     "aten::new_ones", "aten::new_full",    "aten::expand",
                                                     "aten::repeat",   "aten::broadcast_to"};
  return names.contains(name);
}

OperatorFacts facts_of(const Operator& op) {
  OperatorFacts facts;
  auto name = std::string_view(op.name);
  const bool is_own = name.starts_with("aten::");
  name.remove_prefix(name.find("::") + 2);
  facts.fills = fills(op.name);
  facts.is_random = op.handle.hasTag(at::Tag::nondeterministic_seeded);
  if (!is_own) return facts;
  const auto plain = without_underscore(name);
  facts.view = rule_of_views(plain);
  if (!facts.view) facts.math = rule_of_math(plain);
  if (!facts.view && !facts.math && op.handle.hasTag(at::Tag::pointwise)) facts.math = &elementwise;
  facts.is_composite = op.handle.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
  return facts;
}

}  // namespace

const OperatorFacts& KnownOperators::of(const Operator& op) {
  auto* key = &op.handle.schema();
  auto found = known_.find(key);
  if (found == known_.end()) found = known_.emplace(key, facts_of(op)).first;
  return found->second;
}

}  // namespace wanpar
