#include "module/split/rules.hpp"

namespace wanpar {

SplitRule split_rule(std::string_view name) {
  for (auto* rules : {&rules_of_views(), &rules_of_elements(), &rules_of_products(), &rules_of_reductions(),
                      &rules_of_norms(), &rules_of_convolutions(), &rules_of_windows(), &rules_of_joins()}) {
    auto found = rules->find(name);
    if (found != rules->end()) return found->second;
  }
  return nullptr;
}

}  // namespace wanpar
