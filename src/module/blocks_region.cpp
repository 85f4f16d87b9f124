#include <wanpar/module/blocks_region.hpp>

#include <string>
#include <utility>
#include <wanpar/core/error.hpp>

namespace wanpar::detail {

BlocksRegion::BlocksRegion(std::shared_ptr<Handler> handler, std::function<void()> end)
    : handler_(std::move(handler)), end_(std::move(end)) {
  if (within(handler_->strategy()))
    throw Error(std::string(handler_->strategy()) +
                ": inside of another one, which has the blocks already; wrap the module once");
  scope_.emplace(*handler_);
}

void BlocksRegion::leave() {
  scope_.reset();
  end_();
}

}  // namespace wanpar::detail
