#include "module/blocks_scope.hpp"

#include <algorithm>
#include <typeinfo>
#include <utility>
#include <wanpar/core/error.hpp>

namespace wanpar {

BlocksScope::BlocksScope(const std::string& strategy, std::shared_ptr<Handler> handler, End end)
    : handler_(std::move(handler)), end_(std::move(end)) {
  auto around = handlers();
  auto is_of_its_type = [&mine = *handler_](Handler* other) { return typeid(*other) == typeid(mine); };
  if (std::any_of(around.begin(), around.end(), is_of_its_type))
    throw UsageError(strategy +
                     ": inside of another one, which has the blocks already; wrap the module once");
  scope_.emplace(*handler_);
}

}  // namespace wanpar
