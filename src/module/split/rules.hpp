#pragma once
#include <string_view>
#include <unordered_map>

#include "module/split/split_call.hpp"

namespace wanpar {

using SplitRules = std::unordered_map<std::string_view, SplitRule>;

/// The sharding rule of LibTorch's operator of this name ("add", for aten::add_ as well); null if there is
/// none.
SplitRule split_rule(std::string_view name);

/// The rule of elementwise operators, with broadcasting.
bool elementwise(SplitCall& call);

// The rules by kind of operator.
const SplitRules& rules_of_views();
const SplitRules& rules_of_elements();
const SplitRules& rules_of_products();
const SplitRules& rules_of_reductions();
const SplitRules& rules_of_norms();
const SplitRules& rules_of_convolutions();
const SplitRules& rules_of_windows();
const SplitRules& rules_of_joins();

}  // namespace wanpar
