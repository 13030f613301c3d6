// How serve() shall serve, and as whom.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "registry/model/endpoint.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/limits.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/text.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/advertise.hpp"

namespace registry {

/// How to serve, and as whom.
struct ServeConfig {
  /// What is registered. When it has no endpoints it gets one: `grpc://<advertised host>:<real port>`.
  ServiceInstance instance;
  /// Where to listen: "host:port", "[v6]:port" or ":port" (every address). Port 0: any free one. Empty: the builder
  /// has its ports already, and the instance its endpoints.
  std::string listen_address = "0.0.0.0:0";
  /// For listen_address. Null: insecure.
  std::shared_ptr<grpc::ServerCredentials> credentials;
  /// What clients connect to: a name or an address, never a wildcard. Empty: the host of listen_address, or, if that
  /// is a wildcard, this machine's address on the route to `route_to`.
  std::string advertised_host;
  /// Towards whom the advertised address is looked up: the store, as in ConnectorConfig::endpoints, or any address of
  /// the network the clients are in. Nothing is sent there. Empty: the address of the default route.
  std::string route_to;
  /// Of the registration. Zero: the Registry's default.
  std::chrono::seconds ttl{0};
  /// Between deregistration and refusing calls: time for clients to hear of it, so that none of their calls is
  /// refused. A change reaches gRPC channels within some 60 ms (pushes are folded, 20 a second); one second leaves
  /// room for a busy machine.
  std::chrono::milliseconds drain_delay{1000};
  /// How long calls under way may take after that; then they are cancelled. 0 ms to 24 h, as drain_delay.
  std::chrono::milliseconds drain_timeout{10000};
  /// What ends serving. Empty: no signal, only cancellation.
  std::vector<int> signals{SIGINT, SIGTERM};
  /// Called once registered, on a strand of serve()'s executor, with the receipt and the port (0 without a
  /// listen_address). What it throws ends serving and is thrown by serve().
  std::function<void(const Registration&, int port)> on_registered;
  /// Is told about failures that do not end serving, and about changes that were applied or refused.
  Observer observer;

  ServeConfig() {}
  /// Serves as `who`, everything else as it stands above.
  explicit ServeConfig(ServiceInstance who) : instance(std::move(who)) {}
  /// Serves as `who`, and listens at `where`.
  ServeConfig(ServiceInstance who, std::string where)
      : instance(std::move(who)), listen_address(std::move(where)) {}
};

/// Whether serve() can begin with these settings. Throws `invalid_argument` that names the field and the value.
inline void validate(const ServeConfig& config) {
  using namespace detail;
  using std::chrono::milliseconds;
  ServiceInstance instance = config.instance;
  if (instance.endpoints.empty() && config.listen_address.empty()) {
    reject("listen_address", "\"\"", "name where to listen, or the instance's endpoints");
  }
  if (instance.endpoints.empty()) instance.endpoints = {"grpc://127.0.0.1:1"};  // filled in later
  validate(instance);
  for (const std::string& text : instance.endpoints) {
    if (is_wildcard(parse_endpoint(text)->host)) {
      reject("endpoint", quote(text), "is a wildcard, which nobody can connect to: name one address");
    }
  }
  if (!config.listen_address.empty()) {
    const auto listen = parse_listen_address(config.listen_address);
    if (!listen) {
      reject("listen_address", quote(config.listen_address),
             "use host:port, [v6]:port or :port; port 0 for any");
    }
    if (config.instance.endpoints.empty()) {
      const AdvertiseDecision decision = advertise(config.advertised_host, listen->host, std::nullopt);
      if (decision.kind == AdvertiseDecision::Reject) {
        reject("advertised_host", quote(config.advertised_host), decision.why);
      }
    }
  }
  validate_ttl(config.ttl);
  for (const auto& [field, value] :
       {std::pair("drain_delay", config.drain_delay), std::pair("drain_timeout", config.drain_timeout)}) {
    if (value < milliseconds(0) || value > max_duration) reject(field, shown(value), "use 0 ms to 24 h");
  }
}

}  // namespace registry
