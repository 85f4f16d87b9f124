#include "transport/socket.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace wanpar {

Socket::~Socket() {
  if (descriptor_ >= 0) close(descriptor_);
}

std::optional<Endpoint> Endpoint::find(const std::string& host, int port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return {};
  Endpoint first;
  std::memcpy(&first.address_, found->ai_addr, found->ai_addrlen);
  first.size_ = found->ai_addrlen;
  freeaddrinfo(found);
  return first;
}

Endpoint Endpoint::of(const Socket& socket) {
  Endpoint own;
  getsockname(socket.get(), reinterpret_cast<sockaddr*>(&own.address_), &own.size_);
  return own;
}

std::string Endpoint::host() const {
  char text[NI_MAXHOST] = {};
  getnameinfo(get(), size_, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  return text;
}

int Endpoint::port() const {
  auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address_);  // the port of both kinds is in one place
  return ntohs(v6->sin6_port);
}

Endpoint Endpoint::with_port(int port) const {
  auto other = *this;
  reinterpret_cast<sockaddr_in6*>(&other.address_)->sin6_port = htons(static_cast<uint16_t>(port));
  return other;
}

bool Endpoint::is_loopback() const {
  auto host = this->host();
  return host.starts_with("127.") || host == "::1" || host.starts_with("::ffff:127.");
}

Endpoint Endpoint::anywhere() const {
  Endpoint any;
  any.address_.ss_family = address_.ss_family;
  any.size_ = size_;
  return any;
}

bool is_this_host(const std::string& name) {
  return name == "localhost" || name.starts_with("127.") || name == "::1";
}

Socket connecting_to(const Endpoint& there) {
  Socket socket(::socket(there.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket && connect(socket.get(), there.get(), there.size()) != 0 && errno != EINPROGRESS)
    return Socket();
  return socket;
}

bool listens(const Endpoint& there, int milliseconds) {
  auto socket = connecting_to(there);
  pollfd ready{socket.get(), POLLOUT, 0};
  int error = 0;
  socklen_t size = sizeof(error);
  return socket && poll(&ready, 1, milliseconds) == 1 &&
         getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

}  // namespace wanpar
