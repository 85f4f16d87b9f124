#include <wanpar/module/blocks_region.hpp>

#include <utility>

namespace wanpar::detail {

BlocksRegion::BlocksRegion(std::shared_ptr<Handler> handler, std::function<void()> end)
    : handler_(std::move(handler)), end_(std::move(end)) {
  scope_.emplace(*handler_);
}

void BlocksRegion::leave() {
  scope_.reset();
  end_();
}

}  // namespace wanpar::detail
