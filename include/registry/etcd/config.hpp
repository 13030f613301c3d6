// The settings of a connection to etcd.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "registry/model/endpoint.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/text.hpp"

namespace registry::etcd {

/// TLS towards the servers; mutual with `cert_file` and `key_file`, which go together. Files are in PEM format, and
/// read once, when the Connector is made: `ca_file` (empty: the system's authorities), `cert_file`, `key_file`.
/// `server_name`: the name to expect in the servers' certificates, instead of the endpoint's own.
struct Tls {
  /// See above; empty: as if it were not there.
  std::string ca_file, cert_file, key_file, server_name;

  Tls() {}
};

/// The settings of a Connector.
struct ConnectorConfig {
  /// "host:port", "http://host:port", or with TLS "https://host:port". All members of one cluster.
  std::vector<std::string> endpoints{"127.0.0.1:2379"};
  /// How long one attempt to connect may take, and `connect()` as a whole.
  /// 1 ms to 24 h.
  std::chrono::milliseconds dial_timeout{5000};
  /// How long one call may take, with its retries; and the answer to a new watch.
  /// 1 ms to 24 h.
  std::chrono::milliseconds request_timeout{3000};
  /// Who to log in as. Empty: no authentication.
  std::string username, password;
  /// Whether to use TLS. `Tls()` is enough where the system's authorities are. Empty: plain text.
  std::optional<Tls> tls;
  /// HTTP/2 pings while calls are open. A server closes connections that ping more often than every 5 s, so
  /// at least 6 s. Zero: no pings, and a peer that silently went away is only noticed by timeouts.
  std::chrono::milliseconds ping_interval{10000};
  /// How long the answer to a ping may take before the connection counts as broken. At least 100 ms.
  std::chrono::milliseconds ping_timeout{3000};
  /// How often the cluster is asked for its members while the Connector is in use, so that those that
  /// `endpoints` does not name are used, too; at least 1 s, up to a tenth less by chance. Zero: never. Members are
  /// reached at the client URLs that they advertise: one is used once it has answered there as one of the same
  /// cluster (and is told user and password like the others), and no more when it has left. What
  /// `endpoints` names is never given up. Who may not ask goes on with what is known.
  std::chrono::milliseconds auto_sync_interval{0};

  ConnectorConfig() {}
};

namespace detail {

[[noreturn]] inline void reject(const std::string& field, const std::string& value,
                                const std::string& advice) {
  registry::detail::fail(errc::invalid_argument, field + " = " + value + ": " + advice);
}

inline void check_duration(const char* field, std::chrono::milliseconds value,
                           std::chrono::milliseconds least) {
  if (value < least || value > std::chrono::hours(24)) {
    reject(field, std::to_string(value.count()) + " ms",
           "use a value between " + std::to_string(least.count()) + " ms and 24 hours");
  }
}

}  // namespace detail

/// Throws `invalid_argument` that names the field and the value.
inline void validate(const ConnectorConfig& config) {
  using registry::detail::quote;
  if (config.endpoints.empty())
    detail::reject("endpoints", "[]", "name at least one, such as \"127.0.0.1:2379\"");
  for (const auto& text : config.endpoints) {
    const auto endpoint = parse_endpoint(text);
    const bool known =
        endpoint && (endpoint->scheme.empty() || endpoint->scheme == "http" || endpoint->scheme == "https");
    if (!known || !endpoint->query.empty()) {
      detail::reject("endpoints", quote(text), "use host:port, http://host:port or https://host:port");
    }
    if (endpoint->scheme == "http" && config.tls) {
      detail::reject("endpoints", quote(text), "is plain text but tls is set: use https:// or no scheme");
    }
    if (endpoint->scheme == "https" && !config.tls) {
      detail::reject("endpoints", quote(text),
                     "wants TLS: set tls, if only to Tls() for the system's authorities");
    }
  }
  detail::check_duration("dial_timeout", config.dial_timeout, std::chrono::milliseconds(1));
  detail::check_duration("request_timeout", config.request_timeout, std::chrono::milliseconds(1));
  if (config.ping_interval.count() != 0) {
    detail::check_duration("ping_interval", config.ping_interval, std::chrono::seconds(6));
    detail::check_duration("ping_timeout", config.ping_timeout, std::chrono::milliseconds(100));
  }
  if (config.auto_sync_interval.count() != 0)
    detail::check_duration("auto_sync_interval", config.auto_sync_interval, std::chrono::seconds(1));
  if (config.username.empty() && !config.password.empty()) {
    detail::reject("username", "\"\"", "is empty but a password is set");
  }
  if (config.tls && config.tls->cert_file.empty() != config.tls->key_file.empty()) {
    detail::reject("tls.cert_file", quote(config.tls->cert_file),
                   "needs tls.key_file, and the other way round");
  }
}

}  // namespace registry::etcd
