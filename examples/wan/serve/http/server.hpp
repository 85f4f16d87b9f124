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

/// How much of a server a caller may take.
struct Limits {
  size_t header_bytes = 8192, fields = 100, body_bytes = 1 << 20;
  size_t connections = 256, connections_of_peer = 32;  ///< a peer on this host may have all
  std::chrono::seconds header = std::chrono::seconds(5), body = std::chrono::seconds(15),
                       write = std::chrono::seconds(30), idle = std::chrono::seconds(60);
};

class Connection;

/// An HTTP/1.1 server on a thread of its own.
class Server {
 public:
  /// Answers a request of a peer, on the server's thread. May throw Refusal.
  using Handler = std::function<Answer(const Request& request, const std::string& peer)>;

  /// Listens from now on; port 0 is any that is free. Throws Error where the address cannot be had.
  Server(const std::string& host, uint16_t port, Limits limits);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void serve(Handler handler);
  /// Takes no more connections, gives those there are `grace` to be answered, and ends.
  void stop(std::chrono::milliseconds grace);

  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  boost::asio::io_context& io() { return io_; }
  size_t connections() const { return open_; }
  /// Answers by status, as 200 or 429. On the server's thread.
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
  static constexpr size_t kMostRefusing = 64;  // at a time; more are closed without a word
  size_t refusing_ = 0;
  bool is_stopping_ = false;
  std::jthread thread_;
};

}  // namespace wan::serve
