// IP addresses as text: which ones gRPC can be told of, and which spellings mean the same one. gRPC refuses
// all endpoints of a service for one address that is no literal or that is there twice.
#pragma once

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "registry/policy/rendezvous.hpp"

namespace registry {

/// An address that an instance listens on, names resolved.
struct ResolvedAddress {
  std::string ip;          ///< an IPv4 or IPv6 literal, without brackets
  std::uint16_t port = 0;  ///< 0 is not usable

  ResolvedAddress() {}
  /// This address and port.
  ResolvedAddress(std::string address, std::uint16_t p) : ip(std::move(address)), port(p) {}

  friend bool operator==(const ResolvedAddress&, const ResolvedAddress&) = default;
};

namespace detail {

/// One host: equal for all spellings of its address, also for IPv4 written as "::ffff:10.0.0.5".
struct IpBytes {
  std::array<unsigned char, 16> bytes{};

  bool is_v4() const noexcept {
    constexpr std::array<unsigned char, 12> mapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
    return std::equal(mapped.begin(), mapped.end(), bytes.begin());
  }

  /// The one spelling that is published.
  std::string text() const {
    std::array<char, INET6_ADDRSTRLEN> buffer{};
    const int family = is_v4() ? AF_INET : AF_INET6;
    inet_ntop(family, bytes.data() + (is_v4() ? 12 : 0), buffer.data(), buffer.size());
    return buffer.data();
  }

  std::size_t hash() const noexcept {
    const auto halves = std::bit_cast<std::array<std::uint64_t, 2>>(bytes);
    return static_cast<std::size_t>(mix_bits(halves[0] + mix_bits(halves[1])));
  }

  friend bool operator==(const IpBytes&, const IpBytes&) = default;
};

/// Empty for what is no literal, for a wildcard (it would mean the client's own host), and for an address
/// with a scope ("fe80::1%eth0", which means another thing on every host).
inline std::optional<IpBytes> parse_ip(const std::string& text) noexcept {
  IpBytes ip;
  if (text.find('\0') != std::string::npos) return std::nullopt;
  if (inet_pton(AF_INET, text.c_str(), ip.bytes.data() + 12) == 1) {
    ip.bytes[10] = ip.bytes[11] = 0xFF;
  } else {
    ip = IpBytes();
    if (inet_pton(AF_INET6, text.c_str(), ip.bytes.data()) != 1) return std::nullopt;
  }
  const std::size_t prefix = ip.is_v4() ? 12 : 0;
  const bool wildcard =
      std::all_of(ip.bytes.begin() + prefix, ip.bytes.end(), [](auto byte) { return byte == 0; });
  return wildcard ? std::nullopt : std::optional(ip);
}

}  // namespace detail
}  // namespace registry
