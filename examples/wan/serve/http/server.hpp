#pragma once
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "wan/serve/http/answer.hpp"

namespace wan::serve {

/// The limits of clients.
struct Limits {
  size_t header_bytes = 8192, fields = 100, body_bytes = 1 << 20;
  size_t connections = 256, connections_of_peer = 32;  ///< no limit for peers on this host
  std::chrono::seconds header = std::chrono::seconds(5), body = std::chrono::seconds(15),
                       write = std::chrono::seconds(30), idle = std::chrono::seconds(60);
};

class Connection;

/// An HTTP/1.1 server with a thread of its own.
class Server {
 public:
  /// Handles a request of a peer, on the server's thread. May throw Refusal.
  using Handler = std::function<Answer(const Request& request, const std::string& peer)>;

  /// Starts to listen; port 0 is any free one. Throws Error if the address is not available.
  Server(const std::string& host, uint16_t port, Limits limits);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void serve(Handler handler);
  /// Accepts no more connections, gives open ones `grace` to be served, and ends.
  void stop(std::chrono::milliseconds grace);

  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  boost::asio::io_context& io() { return io_; }
  size_t connections() const { return open_; }
  /// The number of responses by status, such as 200 or 429. On the server's thread.
  const std::map<unsigned, uint64_t>& answers() const { return answers_; }

 private:
  friend class Connection;

  boost::asio::awaitable<void> accept();
  boost::asio::awaitable<void> turn_away(std::shared_ptr<Connection> connection);
  void add(const std::shared_ptr<Connection>& connection);
  void remove(const Connection& connection);
  bool make_room();

  boost::asio::io_context io_{1};
  boost::asio::ip::tcp::acceptor acceptor_{io_};
  Limits limits_;
  Handler handler_;
  std::set<std::shared_ptr<Connection>> connections_;
  std::map<std::string, size_t> of_peer_;
  std::map<unsigned, uint64_t> answers_;
  std::atomic<size_t> open_ = 0;
  static constexpr size_t kMostRefusing = 64;  // at a time; further ones are closed without a response
  size_t refusing_ = 0;
  bool is_stopping_ = false;
  std::jthread thread_;
};

}  // namespace wan::serve
