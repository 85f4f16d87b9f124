#include <string>
#include <utility>
#include <wanpar/core/pending.hpp>

#include "core/sentence.hpp"

namespace wanpar::detail {

void Health::keep(std::exception_ptr failure) {
  std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::move(failure);
}

void Health::check() {
  std::lock_guard lock(mutex_);
  if (!failure_) return;
  const std::string when = "this group failed earlier, in a transfer whose result was dropped: ";
  try {
    std::rethrow_exception(std::exchange(failure_, nullptr));
  } catch (const PeerLostError& failure) {
    throw PeerLostError(when + failure.what());
  } catch (const TimeoutError& failure) {
    throw TimeoutError(when + failure.what());
  } catch (const MismatchError& failure) {
    throw MismatchError(when + failure.what());
  } catch (...) {
    throw Error(when + sentence_at_hand());
  }
}

}  // namespace wanpar::detail
