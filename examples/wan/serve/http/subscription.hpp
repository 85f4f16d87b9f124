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

/// What one reader of events has not been sent yet: of each subject the latest only, so that a slow reader
/// costs no more than a quick one. Lives on the server's thread.
class Subscription {
 public:
  explicit Subscription(boost::asio::io_context& io) : wake_(io) {}

  /// An event of a kind. It takes the place of one of the same subject that still waits; behind the last
  /// there is none.
  void put(const std::string& subject, std::string event, bool is_last = false);
  std::optional<std::string> take();
  bool is_over() const { return is_over_ && order_.empty(); }

  /// Returns when something was put, wake() was called, or the time is over.
  boost::asio::awaitable<void> wait(std::chrono::milliseconds limit);
  void wake() { wake_.cancel(); }

 private:
  boost::asio::steady_timer wake_;
  std::deque<std::string> order_;
  std::map<std::string, std::string> waiting_;
  bool is_over_ = false;
};

}  // namespace wan::serve
