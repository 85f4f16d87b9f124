#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "wan/serve/http/server.hpp"

namespace wan::serve {

/// A client's connection, which serves its requests one after the other.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::ip::tcp::socket socket, std::string peer, Server& server);

  boost::asio::awaitable<void> run();
  /// Responds that there are too many connections.
  boost::asio::awaitable<void> refuse();

  const std::string& peer() const { return peer_; }
  /// Since when it has been idle; nullopt while a request is served.
  std::optional<std::chrono::steady_clock::time_point> idle_since() const { return idle_since_; }
  void close();

 private:
  boost::asio::awaitable<void> serve();
  boost::asio::awaitable<std::optional<Request>> read();
  boost::asio::awaitable<bool> send(const Request& request, Answer answer);
  boost::asio::awaitable<bool> send_file(const Request& request, const Answer& answer, const FileBody& body);
  boost::asio::awaitable<void> send_events(const Answer& answer, Subscription& subscription);
  boost::asio::awaitable<std::optional<Answer>> await_answer(const LaterBody& later);
  boost::asio::awaitable<void> watch(std::shared_ptr<Subscription> subscription);
  boost::asio::awaitable<void> linger();
  Answer answer_to(const Request& request);
  template <class Body>
  void prepare(http::response<Body>& response, const Answer& answer, bool is_kept);

  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  std::string peer_;
  Server& server_;
  std::optional<std::chrono::steady_clock::time_point> idle_since_;
  bool has_served_ = false, is_gone_ = false;
};

}  // namespace wan::serve
