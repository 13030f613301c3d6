// An address of an instance taken apart: "scheme://host:port" or "host:port".
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace registry {

/// An address of an instance.
struct Endpoint {
  std::string scheme;      ///< lower case; empty for a plain "host:port"
  std::string host;        ///< a name or an address; IPv6 without its brackets
  std::uint16_t port = 0;  ///< never 0 in a parsed endpoint
  std::string query;       ///< what follows '?', as kratos writes it ("isSecure=true"); usually empty

  Endpoint() {}

  /// Whether the host is an IPv6 address.
  bool is_ipv6() const noexcept { return host.find(':') != std::string::npos; }

  /// "host:port", with brackets around an IPv6 address.
  std::string authority() const { return (is_ipv6() ? "[" + host + "]" : host) + ":" + std::to_string(port); }
};

namespace detail {

inline bool is_alnum(char c) noexcept {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// A name or an IPv4 address. '_' is not in the standard for host names but container networks use it.
inline bool is_host_name(std::string_view host) noexcept {
  if (host.empty() || host.size() > 253) return false;
  for (const char c : host) {
    if (!is_alnum(c) && c != '.' && c != '-' && c != '_') return false;
  }
  return true;
}

// The characters of an IPv6 address with an optional zone ("fe80::1%eth0"); the resolver has the last word on
// the rest.
inline bool is_ipv6_text(std::string_view host) noexcept {
  const std::size_t percent = host.find('%');
  const std::string_view address = host.substr(0, percent);
  if (address.size() < 2 || address.size() > 45 || address.find(':') == std::string_view::npos) return false;
  if (address.find_first_not_of("0123456789abcdefABCDEF:.") != std::string_view::npos) return false;
  return percent == std::string_view::npos || is_host_name(host.substr(percent + 1));
}

}  // namespace detail

/// Takes an endpoint apart. Empty if it is not `[scheme://]host:port[?query]` with a port from 1 to 65535
/// and, around an IPv6 address, brackets. Never throws on bad text; does not look at which scheme it is.
inline std::optional<Endpoint> parse_endpoint(std::string_view text) {
  Endpoint endpoint;
  if (const std::size_t mark = text.find("://"); mark != std::string_view::npos) {
    if (mark == 0) return std::nullopt;
    for (const char c : text.substr(0, mark)) {
      if (!detail::is_alnum(c) && c != '+' && c != '-' && c != '.') return std::nullopt;
      endpoint.scheme += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    text.remove_prefix(mark + 3);
  }
  if (const std::size_t mark = text.find('?'); mark != std::string_view::npos) {
    endpoint.query = text.substr(mark + 1);
    text = text.substr(0, mark);
  }
  std::string_view host, port;
  if (!text.empty() && text.front() == '[') {
    const std::size_t close = text.find("]:");
    if (close == std::string_view::npos) return std::nullopt;
    host = text.substr(1, close - 1);
    port = text.substr(close + 2);
    if (!detail::is_ipv6_text(host)) return std::nullopt;
  } else {
    const std::size_t colon = text.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (!detail::is_host_name(host)) return std::nullopt;
  }
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), endpoint.port);
  if (error != std::errc{} || end != port.data() + port.size() || endpoint.port == 0) return std::nullopt;
  endpoint.host = host;
  return endpoint;
}

}  // namespace registry
