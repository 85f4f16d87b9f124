#pragma once
#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "wan/serve/http/subscription.hpp"
#include "wan/serve/jobs.hpp"

namespace wan::serve {

/// Brings events to those who listen. They are told on the server's thread.
class Feed {
 public:
  explicit Feed(boost::asio::io_context& io) : io_(io) {}

  /// Any thread may call it.
  void publish(const Event& event);

  /// On the server's thread: events of one job, or without an id of all that the owner has, and of the
  /// server.
  std::shared_ptr<Subscription> subscribe(const std::string& owner, const std::optional<std::string>& id);
  bool has_listeners();

 private:
  struct Listener {
    std::string owner;
    std::optional<std::string> id;
    std::weak_ptr<Subscription> subscription;
  };

  boost::asio::io_context& io_;
  std::vector<Listener> listeners_;
};

/// An event as it is sent.
std::string sent_form(const std::string& kind, const std::string& data);

}  // namespace wan::serve
