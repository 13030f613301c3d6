// One endpoint of the cluster: its channel, its stubs and the token it accepts.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <chrono>
#include <climits>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "registry/async/signal.hpp"
#include "registry/etcd/config.hpp"
#include "registry/etcd/stub.hpp"

namespace registry::etcd::detail {

using registry::detail::Signal;

/// A token is kept for each endpoint: simple tokens live in one member's memory and run out there by
/// themselves. Guarded by the connection's mutex, except the stubs, which are thread-safe.
struct Member {
  const std::string address;  // host:port
  std::unique_ptr<rpc::KV::Stub> kv;
  std::unique_ptr<rpc::Watch::Stub> watch;
  std::unique_ptr<rpc::Lease::Stub> lease;
  std::unique_ptr<rpc::Auth::Stub> auth;
  std::unique_ptr<rpc::Cluster::Stub> cluster;
  std::unique_ptr<rpc::Maintenance::Stub> maintenance;

  std::string token;
  bool needs_no_token = false;  // the server said that authentication is off
  bool authenticating = false;
  std::vector<Signal> waiting_for_token;
  std::chrono::steady_clock::time_point refused_until;  // wrong password: no storm of attempts
  std::string refusal;

  Member(std::string at, const std::shared_ptr<grpc::Channel>& channel)
      : address(std::move(at)),
        kv(rpc::KV::NewStub(channel)),
        watch(rpc::Watch::NewStub(channel)),
        lease(rpc::Lease::NewStub(channel)),
        auth(rpc::Auth::NewStub(channel)),
        cluster(rpc::Cluster::NewStub(channel)),
        maintenance(rpc::Maintenance::NewStub(channel)) {}
};

using MemberPtr = std::shared_ptr<Member>;

inline std::string read_pem(const char* field, const std::string& path) {
  if (path.empty()) return {};
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || text.empty()) {
    registry::detail::fail(errc::tls_failed, std::string("tls.") + field + " = " +
                                                 registry::detail::quote(path) +
                                                 ": cannot be read, or is empty");
  }
  return text;
}

inline std::shared_ptr<grpc::ChannelCredentials> make_credentials(const ConnectorConfig& config) {
  if (!config.tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = read_pem("ca_file", config.tls->ca_file);
  options.pem_cert_chain = read_pem("cert_file", config.tls->cert_file);
  options.pem_private_key = read_pem("key_file", config.tls->key_file);
  return grpc::SslCredentials(options);
}

inline int milliseconds_of(std::chrono::milliseconds value) { return static_cast<int>(value.count()); }

/// One channel for each endpoint: gRPC cannot check the certificates of several addresses behind one name,
/// and we choose the endpoint ourselves.
inline std::shared_ptr<grpc::Channel> make_channel(
    const ConnectorConfig& config, const std::string& address,
    const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(-1);  // a catch-up answer of a watch may exceed gRPC's 4 MiB
  args.SetMaxSendMessageSize(-1);     // the server's own limit answers with a clear error
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // a store is reached directly, whatever http_proxy says
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, milliseconds_of(config.dial_timeout));
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  if (config.ping_interval.count() > 0) {
    args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds_of(config.ping_interval));
    args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, milliseconds_of(config.ping_timeout));
    args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);    // or an idle watch stops pinging after two
    args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);  // or the server says too_many_pings
  }
  if (config.tls && !config.tls->server_name.empty()) args.SetSslTargetNameOverride(config.tls->server_name);
  return grpc::CreateCustomChannel(address, credentials, args);
}

}  // namespace registry::etcd::detail
