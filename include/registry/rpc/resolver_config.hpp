// How services are published to gRPC.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <string>

#include "registry/model/errors.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/limits.hpp"
#include "registry/model/text.hpp"
#include "registry/model/validate.hpp"
#include "registry/policy/publication.hpp"

namespace registry {

/// How the calls to one service are spread over its instances. In every case an instance takes part while its
/// status is neither "disabled" nor "draining" and its weight is not 0.
struct ServiceRule {
  /// RoundRobin respects the metadata entry "weight"; PickFirst sends everything to one instance and turns to
  /// the next one when it fails; RingHash sends equal keys to the same instance (refused with gRPC 1.49 to 1.51,
  /// which crash with it).
  Balancing balancing = Balancing::RoundRobin;
  /// RingHash: the call's metadata entry with the key. Empty: all calls of a channel have the same key.
  std::string hash_header;
  /// Splits the calls by version: {{"v1", 90}, {"v2", 10}}. Instances of other versions take no part; a version without
  /// instances leaves its share to the others. Empty: versions make no difference.
  std::map<std::string, std::uint32_t> version_shares;
  /// Only instances that match.
  ServiceFilter filter;

  ServiceRule() {}
};

/// The settings of a Resolver.
struct ResolverConfig {
  /// For services without a rule of their own.
  ServiceRule rule;
  /// Rules for single services, by name: each stands instead of `rule` as a whole.
  std::map<std::string, ServiceRule> services;
  /// Where this process runs. Instances of the same zone are preferred, then those of the same region, then the
  /// rest; the next group is used while the one before it has no instance that can be reached. Empty: no
  /// preference.
  std::string zone, region;
  /// More addresses than this are not given to a channel, because it connects to each of them: every client then uses
  /// its own part of them, which changes as little as possible when instances come and go. An instance has as many as it
  /// has endpoints for gRPC. At least 1.
  std::size_t max_endpoints = 500;
  /// Bursts of changes of one service are folded; the last state is always sent. 1 to 1000.
  std::size_t max_pushes_per_second = 20;
  /// How often host names in endpoints are looked up again. At least 1 s.
  std::chrono::milliseconds name_refresh{30000};
  /// Which part of the instances, and with PickFirst which one, this client gets. Empty: drawn at random.
  std::string client_id;
  /// "127.0.0.1:18000", ":0": the control plane also listens there, for gRPC clients of other processes and languages
  /// (`xds:///user-service`). Without a host it is the loopback address. It is plain text and tells everyone who connects where
  /// the instances are: keep it inside. Empty: off.
  std::string listen;

  ResolverConfig() {}
};

/// How get_connection prepares a channel.
struct ConnectionOptions {
  /// Waits until gRPC has that many addresses of instances that can be used, up to `timeout`; then it throws `timed_out`.
  /// At most the Resolver's `max_endpoints`.
  std::size_t at_least = 0;
  /// How long get_connection may take, with `at_least` = 0 too: until the list of the service is there.
  std::chrono::milliseconds timeout{5000};
  /// Further settings of the channel. Channels are shared by name and credentials unless these are set.
  std::optional<grpc::ChannelArguments> arguments;

  ConnectionOptions() {}
};

namespace detail {

/// gRPC 1.49 to 1.51 crash at the first call with ring hash (grpc issue 31766).
inline bool ring_hash_works(const std::string& grpc_version) {
  int major = 0, minor = 0;
  if (std::sscanf(grpc_version.c_str(), "%d.%d", &major, &minor) != 2) return true;
  return major != 1 || minor < 49 || minor > 51;
}

}  // namespace detail

/// Whether a rule can be used; `field` is what errors call it. Throws `invalid_argument` that names the field and the
/// value.
inline void validate(const ServiceRule& rule, const std::string& field) {
  using detail::fail;
  if (rule.balancing == Balancing::RingHash && !detail::ring_hash_works(grpc::Version()))
    fail(errc::invalid_argument, field + ".balancing = RingHash: gRPC " + grpc::Version() +
                                     " crashes with it; use gRPC 1.52 or newer");
  if (!rule.hash_header.empty() && rule.balancing != Balancing::RingHash)
    fail(errc::invalid_argument,
         field + ".hash_header = " + detail::quote(rule.hash_header) + ": needs balancing = RingHash");
  std::uint64_t sum = 0;
  for (const auto& [version, share] : rule.version_shares) {
    sum += share;
    detail::check_text(field + ".version_shares", version, max_name_size);
    if (share > 1'000'000)
      fail(errc::invalid_argument, field + ".version_shares[" + detail::quote(version) +
                                       "] = " + std::to_string(share) + ": use 0 to 1000000");
  }
  if (!rule.version_shares.empty() && sum == 0)
    fail(errc::invalid_argument, field + ".version_shares: all are 0; give at least one version a share");
}

/// Whether a Resolver can be made with these settings, but for `listen`. Throws `invalid_argument` that
/// names the field and the value.
inline void validate(const ResolverConfig& config) {
  using detail::fail;
  validate(config.rule, "rule");
  for (const auto& [name, rule] : config.services) {
    validate_service_name(name);
    validate(rule, "services[" + detail::quote(name) + "]");
  }
  // What is published must be UTF-8.
  detail::check_text("zone", config.zone, max_name_size);
  detail::check_text("region", config.region, max_name_size);
  if (config.max_endpoints == 0) fail(errc::invalid_argument, "max_endpoints = 0: use at least 1");
  if (config.max_pushes_per_second == 0 || config.max_pushes_per_second > 1000)
    fail(errc::invalid_argument,
         "max_pushes_per_second = " + std::to_string(config.max_pushes_per_second) + ": use 1 to 1000");
  if (config.name_refresh < std::chrono::seconds(1) || config.name_refresh > std::chrono::hours(24))
    fail(errc::invalid_argument,
         "name_refresh = " + std::to_string(config.name_refresh.count()) + " ms: use 1 s to 24 h");
}

}  // namespace registry
