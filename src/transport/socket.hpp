#pragma once
#include <sys/socket.h>

#include <optional>
#include <string>
#include <utility>

namespace wanpar {

/// A socket descriptor that is closed on destruction, and not inherited by child programs.
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

/// An address and a port, in numeric form.
class Endpoint {
 public:
  Endpoint() = default;
  /// Resolves a host name, which may take a while; nullopt for an unknown host.
  static std::optional<Endpoint> find(const std::string& host, int port);
  static Endpoint of(const Socket& socket);

  /// The address ("10.0.0.1"), and the same address with another port.
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

/// Whether a name denotes this host.
bool is_this_host(const std::string& name);

/// A connection in progress; it is writable once it is established.
Socket connecting_to(const Endpoint& there);
/// Whether something accepts connections at the address.
bool listens(const Endpoint& there, int milliseconds);

}  // namespace wanpar
