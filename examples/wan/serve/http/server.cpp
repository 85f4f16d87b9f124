#include "wan/serve/http/server.hpp"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <future>
#include <wanpar/core/error.hpp>

#include "wan/serve/http/connection.hpp"

namespace wan::serve {
namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

Server::Server(const std::string& host, uint16_t port, Limits limits) : limits_(limits) {
  error_code error;
  const auto address = net::ip::make_address(host, error);
  if (error)
    throw wanpar::Error(fmt::format(
        "--server_host {} is not an address; write 127.0.0.1, or 0.0.0.0 for all of this host", host));
  const tcp::endpoint endpoint(address, port);
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(net::socket_base::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(1024, error);
  if (error)
    throw wanpar::Error(fmt::format(
        "port {} of {} cannot be had: {}; give another --server_port, or 0 for any that is free", port, host,
        error == net::error::address_in_use ? "another program holds it" : error.message()));
}

Server::~Server() { stop(std::chrono::milliseconds(0)); }

void Server::serve(Handler handler) {
  handler_ = std::move(handler);
  net::co_spawn(io_, accept(), net::detached);
  thread_ = std::jthread([this] {
    pthread_setname_np(pthread_self(), "http");  // for who looks at what costs time
    io_.run();
  });
}

void Server::stop(std::chrono::milliseconds grace) {
  if (!thread_.joinable()) return;
  net::post(io_, [this, grace] {
    is_stopping_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    for (const auto& connection : std::set(connections_))
      if (connection->idle_since()) connection->close();
    auto timer = std::make_shared<net::steady_timer>(io_, grace);
    timer->async_wait([this, timer](error_code) { io_.stop(); });
  });
  thread_.join();
  connections_.clear();
}

net::awaitable<void> Server::accept() {
  while (!is_stopping_) {
    error_code error;
    auto socket = co_await acceptor_.async_accept(net::redirect_error(net::use_awaitable, error));
    if (is_stopping_ || error == net::error::operation_aborted) co_return;
    if (error) {  // out of descriptors, say
      net::steady_timer soon(io_, std::chrono::milliseconds(50));
      co_await soon.async_wait(net::use_awaitable);
      continue;
    }
    const auto from = socket.remote_endpoint(error);
    if (error) continue;
    const auto peer = from.address().to_string();
    socket.set_option(tcp::no_delay(true), error);
    const auto connection = std::make_shared<Connection>(std::move(socket), peer, *this);
    const auto of_peer = of_peer_.find(peer);
    const bool has_enough = !from.address().is_loopback() && of_peer != of_peer_.end() &&
                            of_peer->second >= limits_.connections_of_peer;
    if (has_enough || (connections_.size() >= limits_.connections && !make_room())) {
      if (refusing_ < kMostRefusing) net::co_spawn(io_, turn_away(connection), net::detached);
      continue;
    }
    add(connection);
    net::co_spawn(
        io_, [connection] { return connection->run(); }, net::detached);
  }
}

net::awaitable<void> Server::turn_away(std::shared_ptr<Connection> connection) {
  ++refusing_;
  co_await connection->refuse();
  --refusing_;
}

void Server::add(const std::shared_ptr<Connection>& connection) {
  connections_.insert(connection);
  ++of_peer_[connection->peer()];
  open_ = connections_.size();
}

void Server::remove(const Connection& connection) {
  const auto found = std::find_if(connections_.begin(), connections_.end(),
                                  [&](const auto& one) { return one.get() == &connection; });
  if (found == connections_.end()) return;
  if (--of_peer_[connection.peer()] == 0) of_peer_.erase(connection.peer());
  connections_.erase(found);
  open_ = connections_.size();
}

/// Closes the connection that has waited longest without a request: whoever holds many open keeps nobody out.
bool Server::make_room() {
  std::shared_ptr<Connection> longest;
  for (const auto& one : connections_)
    if (one->idle_since() && (!longest || *one->idle_since() < *longest->idle_since())) longest = one;
  if (!longest) return false;
  longest->close();
  remove(*longest);
  return true;
}

}  // namespace wan::serve
