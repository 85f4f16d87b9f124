#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <string>

namespace wan::serve {

/// The events that a subscriber has not been sent yet: only the latest of each subject, so that a slow client
/// costs no more than a fast one. Used on the server's thread.
class Subscription {
 public:
  explicit Subscription(boost::asio::io_context& io) : wake_(io) {}

  /// Adds an event. It replaces a waiting one of the same subject; after the last one none is added.
  void put(const std::string& subject, std::string event, bool is_last = false);
  std::optional<std::string> take();
  bool is_over() const { return is_over_ && order_.empty(); }

  /// Returns when an event was added, wake() was called, or the time is over.
  boost::asio::awaitable<void> wait(std::chrono::milliseconds limit);
  void wake() { wake_.cancel(); }

 private:
  boost::asio::steady_timer wake_;
  std::deque<std::string> order_;
  std::map<std::string, std::string> waiting_;
  bool is_over_ = false;
};

}  // namespace wan::serve
