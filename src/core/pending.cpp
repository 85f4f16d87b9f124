#include <utility>
#include <wanpar/core/pending.hpp>

namespace wanpar::detail {

void Health::keep(std::string failure) {
  std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = std::move(failure);
}

void Health::check() {
  std::lock_guard lock(mutex_);
  if (failure_.empty()) return;
  throw Error("this group failed earlier, in a transfer whose result was dropped: " +
              std::exchange(failure_, {}));
}

}  // namespace wanpar::detail
