// Which address of a server others are told: decided from where it listens, what its user said, and the address
// this machine has on the way to the store.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace registry {

/// Where a server listens: "host:port", "[v6]:port", or ":port" for every address. Port 0: any free one.
struct ListenAddress {
  std::string host;        ///< without brackets; empty: every address
  std::uint16_t port = 0;  ///< 0: any free one

  ListenAddress() {}
};

/// Takes such a text apart; empty if it is not of that form.
inline std::optional<ListenAddress> parse_listen_address(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (brackets) host = host.substr(1, host.size() - 2);
  if (host.find_first_of("/[] \t") != std::string_view::npos) return std::nullopt;
  if (brackets != (host.find(':') != std::string_view::npos)) return std::nullopt;
  ListenAddress address;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (port.empty() || error != std::errc{} || end != port.data() + port.size()) return std::nullopt;
  address.host = host;
  return address;
}

/// Every address of a machine, in any way of writing it: nobody can connect to that.
inline bool is_wildcard(std::string_view host) noexcept {
  if (host.empty() || host == "*") return true;
  if (host.starts_with("::ffff:") || host.starts_with("::FFFF:")) host.remove_prefix(7);
  // "0.0.0.0", "0", "::", "0:0:0:0:0:0:0:0", "::%eth0"
  host = host.substr(0, host.find('%'));
  return host.find_first_not_of("0.:") == std::string_view::npos;
}

/// Only reachable on this machine.
inline bool is_loopback(std::string_view host) noexcept {
  if (host == "localhost" || host == "::1") return true;
  if (host.starts_with("::ffff:")) host.remove_prefix(7);
  // An IPv4 address, not a name that begins like one.
  return host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string_view::npos;
}

/// Whether the address on the way to the store is needed, or which host to publish, or why none can be.
struct AdvertiseDecision {
  /// Publish `host`; ask again with the address on the route; or none can be published, see `why`.
  enum Kind { Publish, NeedRoute, Reject };
  Kind kind = Reject;  ///< which of the three
  std::string host;    ///< to publish
  std::string why;     ///< for Reject: what is wrong and what to do

  /// Publish this host.
  static AdvertiseDecision publish(std::string_view host) { return AdvertiseDecision(Publish, host, ""); }
  /// Ask again, with the address on the way to the store.
  static AdvertiseDecision need_route() { return AdvertiseDecision(NeedRoute, "", ""); }
  /// None can be published, for this reason.
  static AdvertiseDecision reject(std::string_view why) { return AdvertiseDecision(Reject, "", why); }

  AdvertiseDecision() {}

 private:
  AdvertiseDecision(Kind what, std::string_view name, std::string_view reason)
      : kind(what), host(name), why(reason) {}
};

/// `advertised`: what the user said, empty if nothing. `listen`: the host of the listen address. `route`: this
/// machine's address on the way to the store, if it was looked up; an empty one could not be found.
///
/// What the user said counts, except a wildcard. A server that listens at one address is published there.
/// Otherwise the address on the route is: a loopback one only if the store is on loopback too, which the route
/// shows by being one; and never one of a kind the server does not listen on.
inline AdvertiseDecision advertise(std::string_view advertised, std::string_view listen,
                                   const std::optional<std::string>& route) {
  using Decision = AdvertiseDecision;
  if (!advertised.empty()) {
    if (advertised.front() == '[' && advertised.back() == ']') {
      advertised = advertised.substr(1, advertised.size() - 2);
    }
    if (is_wildcard(advertised)) {
      return Decision::reject("is a wildcard, which nobody can connect to: name one address");
    }
    return Decision::publish(advertised);
  }
  if (!is_wildcard(listen)) return Decision::publish(listen);
  if (!route) return Decision::need_route();
  if (is_wildcard(*route)) {
    return Decision::reject(
        "no address of this machine leads to the store: set advertised_host, or route_to to an address of "
        "the "
        "network that the clients are in");
  }
  const bool v6 = route->find(':') != std::string::npos;
  if (v6 && (listen == "0.0.0.0" || listen == "0")) {
    return Decision::reject(
        "the route to the store is IPv6 but the server listens on IPv4 alone: set "
        "advertised_host, or listen on [::]");
  }
  if (route->starts_with("fe80:") || route->starts_with("FE80:")) {
    return Decision::reject(
        "the route to the store has a link-local address, which means nothing elsewhere: set "
        "advertised_host");
  }
  return Decision::publish(*route);
}

}  // namespace registry
