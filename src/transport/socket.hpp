#pragma once
#include <sys/socket.h>

#include <optional>
#include <string>
#include <utility>

namespace wanpar {

/// A file descriptor that is closed at its end, and by no program that this one starts.
class Socket {
 public:
  explicit Socket(int descriptor = -1) : descriptor_(descriptor) {}
  ~Socket();
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }

  int get() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

/// Where something listens: an address and a port, as numbers.
class Endpoint {
 public:
  Endpoint() = default;
  /// Asks the resolver, which may take its time. Nothing where it knows no such host.
  static std::optional<Endpoint> find(const std::string& host, int port);
  static Endpoint of(const Socket& socket);

  /// "10.0.0.1", and the same place with another port.
  std::string host() const;
  int port() const;
  Endpoint with_port(int port) const;
  bool is_loopback() const;
  /// Any address of this host, in the same family.
  Endpoint anywhere() const;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t size() const { return size_; }
  int family() const { return address_.ss_family; }

 private:
  sockaddr_storage address_{};
  socklen_t size_ = sizeof(sockaddr_storage);
};

/// Whether a name says that all is on this host.
bool is_this_host(const std::string& name);

/// A connection that is under way; it can be written to once it stands.
Socket connecting_to(const Endpoint& there);
/// Whether something accepts connections there.
bool listens(const Endpoint& there, int milliseconds);

}  // namespace wanpar
