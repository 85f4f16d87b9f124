#include "wan/serve/http/subscription.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace wan::serve {

void Subscription::put(const std::string& subject, std::string event, bool is_last) {
  if (is_over_) return;
  is_over_ = is_last;
  if (!waiting_.contains(subject)) order_.push_back(subject);
  waiting_[subject] = std::move(event);
  wake();
}

std::optional<std::string> Subscription::take() {
  if (order_.empty()) return std::nullopt;
  auto found = waiting_.extract(order_.front());
  order_.pop_front();
  return std::move(found.mapped());
}

boost::asio::awaitable<void> Subscription::wait(std::chrono::milliseconds limit) {
  if (!order_.empty()) co_return;
  wake_.expires_after(limit);
  boost::system::error_code woken;
  co_await wake_.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, woken));
}

}  // namespace wan::serve
