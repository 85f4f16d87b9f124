#include "transport/c10d_transfers.hpp"

#include <thread>

namespace wanpar {

Transfers::Transfers(Call call, std::shared_ptr<const Membership> membership, std::optional<int64_t> sent,
                     Waiting waiting)
    : call_(std::move(call)),
      membership_(std::move(membership)),
      deadline_(call_.timeout),
      sent_(sent),
      waiting_(std::move(waiting)) {}

void Transfers::wait() {
  constexpr std::chrono::milliseconds kLeast(1);
  if (parts_.empty()) return;
  Wait wait(membership_->pulse(), membership_->group(), call_, deadline_, waiting_.interrupt);
  for (auto& part : parts_) {
    try {
      while (waiting_.looks && !part.work->isCompleted() && !wait.is_over()) std::this_thread::yield();
      part.work->wait(wait.is_over() ? kLeast : wait.limit(kLeast));
    } catch (const std::exception& failure) {
      auto peer = part.peer;
      parts_.clear();
      membership_->throw_ended(wait, call_, peer, failure);
    }
  }
  parts_.clear();
}

}  // namespace wanpar
