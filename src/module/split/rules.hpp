#pragma once
#include <string_view>
#include <unordered_map>

#include "module/split/split_call.hpp"

namespace wanpar {

using SplitRules = std::unordered_map<std::string_view, SplitRule>;

/// How LibTorch's operator of this name ("add", of aten::add_ as well) runs on parts; null where it does not.
SplitRule split_rule(std::string_view name);

/// Each element for itself, inputs broadcast.
bool elementwise(SplitCall& call);

// By what they do.
const SplitRules& rules_of_views();
const SplitRules& rules_of_elements();
const SplitRules& rules_of_products();
const SplitRules& rules_of_reductions();
const SplitRules& rules_of_norms();
const SplitRules& rules_of_convolutions();
const SplitRules& rules_of_windows();
const SplitRules& rules_of_joins();

}  // namespace wanpar
