// Loopback sockets with deadlines.
#include "net.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <random>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace rig {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const std::string& what, int error = errno) {
  throw std::system_error(error, std::generic_category(), what);
}

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

int bind_to(int fd, std::uint16_t port) {
  const auto address = loopback(port);
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

/// Names in the abstract namespace vanish with their last holder, however that dies.
Fd reserve(std::uint16_t port) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "registry-rig-port-" + std::to_string(port);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) fd.reset();
  return fd;
}

int left(Clock::time_point end) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
  return ms > 0 ? static_cast<int>(ms) : 0;
}

bool wait_for(int fd, short events, Clock::time_point end) {
  for (;;) {
    pollfd one{fd, events, 0};
    const int n = ::poll(&one, 1, left(end));
    if (n > 0) return true;
    if (n == 0) return false;
    if (errno != EINTR) fail("poll");
  }
}

}  // namespace

Port::Port() {
  int low = 32768, high = 60999;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> low >> high;
  std::random_device random;
  std::uniform_int_distribution<int> draw(10000, low > 12000 ? low - 1 : 65000);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const auto port = static_cast<std::uint16_t>(draw(random));
    auto reservation = reserve(port);
    if (!reservation) continue;
    const Fd probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (bind_to(probe.get(), port) != 0) continue;
    number_ = port;
    reservation_ = std::move(reservation);
    return;
  }
  throw std::runtime_error("rig: no free port");
}

Fd listen_on(std::uint16_t port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind_to(fd.get(), port) != 0 || ::listen(fd.get(), 512) != 0)
    fail("listen on port " + std::to_string(port));
  return fd;
}

std::uint16_t port_of(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) fail("getsockname");
  return ntohs(address.sin_port);
}

Socket::Socket(const std::string& endpoint, std::chrono::milliseconds deadline)
    : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  const auto colon = endpoint.rfind(':');
  auto address = loopback(static_cast<std::uint16_t>(std::stoi(endpoint.substr(colon + 1))));
  if (::inet_pton(AF_INET, endpoint.substr(0, colon).c_str(), &address.sin_addr) != 1)
    throw std::invalid_argument("not an IPv4 endpoint: " + endpoint);
  const int yes = 1;
  ::setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return;
  if (errno != EINPROGRESS) fail("connect to " + endpoint);
  if (!wait_for(fd_.get(), POLLOUT, Clock::now() + deadline)) fail("connect to " + endpoint, ETIMEDOUT);
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  // Reset already: it was a connection; the first receive() says that it is closed.
  if (error && error != ECONNRESET) fail("connect to " + endpoint, error);
}

bool Socket::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      if (!wait_for(fd_.get(), POLLOUT, Clock::now() + std::chrono::seconds(10))) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

std::optional<std::string> Socket::receive(std::chrono::milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  char buffer[16384];
  for (;;) {
    const auto n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n >= 0) return std::string(buffer, static_cast<std::size_t>(n));
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return std::string();
    if (!wait_for(fd_.get(), POLLIN, end)) return std::nullopt;
  }
}

std::string Socket::receive_exactly(std::size_t n, std::chrono::milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  std::string all;
  while (all.size() < n) {
    char buffer[16384];
    const auto got = ::recv(fd_.get(), buffer, std::min(sizeof buffer, n - all.size()), 0);
    if (got > 0) {
      all.append(buffer, static_cast<std::size_t>(got));
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR) || !wait_for(fd_.get(), POLLIN, end)) {
      break;
    }
  }
  return all;
}

bool Socket::closed(std::chrono::milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  for (;;) {
    const auto got = receive(std::chrono::milliseconds(left(end)));
    if (!got) return false;
    if (got->empty()) return true;
  }
}

std::string http_get(const std::string& endpoint, const std::string& path,
                     std::chrono::milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  Socket socket(endpoint, deadline);
  // 1.0: the answer then ends with the connection and comes in one piece, without chunks.
  socket.send("GET " + path + " HTTP/1.0\r\nHost: " + endpoint + "\r\n\r\n");
  std::string answer;
  for (;;) {
    const auto got = socket.receive(std::chrono::milliseconds(left(end)));
    if (!got) fail("GET http://" + endpoint + path, ETIMEDOUT);
    if (got->empty()) break;
    answer += *got;
  }
  const auto body = answer.find("\r\n\r\n");
  const auto status = answer.substr(0, answer.find("\r\n"));
  if (body == std::string::npos || status.find(" 200") == std::string::npos)
    throw std::runtime_error("GET http://" + endpoint + path + ": '" + status + "'" +
                             (body == std::string::npos ? "" : " " + answer.substr(body + 4, 200)));
  return answer.substr(body + 4);
}

}  // namespace rig
