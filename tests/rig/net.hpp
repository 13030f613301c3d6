// Loopback TCP for tests: ports that stay reserved, a blocking socket with deadlines, an HTTP GET.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "fd.hpp"

namespace rig {

/// A port of 127.0.0.1 that no other rig, in any process, is given while this lives. Taken from below the
/// range of ephemeral ports: a port in that range may become the source of somebody's connection while its
/// server is down (or of a reconnecting client's own, which then talks to itself), and the server cannot come
/// back.
class Port {
 public:
  Port();
  std::uint16_t number() const noexcept { return number_; }
  std::string endpoint() const { return "127.0.0.1:" + std::to_string(number_); }

 private:
  std::uint16_t number_ = 0;
  Fd reservation_;
};

/// A TCP socket that listens on 127.0.0.1:port (0: any) and accepts nothing by itself.
Fd listen_on(std::uint16_t port);
/// The local port of a socket.
std::uint16_t port_of(int fd);

/// A blocking client connection; `endpoint` is "127.0.0.1:port". Throws when there is no connection within
/// the deadline.
class Socket {
 public:
  explicit Socket(const std::string& endpoint, std::chrono::milliseconds deadline = std::chrono::seconds(5));

  /// False when the peer is gone.
  bool send(std::string_view bytes);
  /// What comes first: bytes, an empty string for "closed or reset", nullopt at the deadline.
  std::optional<std::string> receive(std::chrono::milliseconds deadline = std::chrono::seconds(10));
  /// Reads until there are n bytes, the end, or the deadline.
  std::string receive_exactly(std::size_t n, std::chrono::milliseconds deadline = std::chrono::seconds(10));
  /// Reads, and throws away, until the peer closes: true; or the deadline.
  bool closed(std::chrono::milliseconds deadline = std::chrono::seconds(10));
  int fd() const noexcept { return fd_.get(); }

 private:
  Fd fd_;
};

/// The body of an answer 200 to GET; throws for any other, and at the deadline.
std::string http_get(const std::string& endpoint, const std::string& path,
                     std::chrono::milliseconds deadline = std::chrono::seconds(5));

}  // namespace rig
