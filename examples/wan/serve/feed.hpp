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

/// Publishes events to subscribers, on the server's thread.
class Feed {
 public:
  explicit Feed(boost::asio::io_context& io) : io_(io) {}

  /// Thread-safe.
  void publish(const Event& event);

  /// On the server's thread: subscribes to the events of one job, or without an id to those of all jobs of
  /// the owner, and of the server.
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

/// An event in the wire format of server-sent events.
std::string sent_form(const std::string& kind, const std::string& data);

}  // namespace wan::serve
