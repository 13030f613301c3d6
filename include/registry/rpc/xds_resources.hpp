// What is published of a service, as the bytes of xDS resources.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "registry/policy/ads_messages.hpp"
#include "registry/policy/publication.hpp"
#include "registry/policy/traffic_split.hpp"
#include "registry/rpc/resolver_config.hpp"
#include "registry/rpc/xds_names.hpp"
#include "registry/rpc/xds_stub.hpp"

namespace registry::detail {

template <class Message>
void pack(xds::Any& any, const char* type, const Message& message) {
  any.set_type_url(std::string("type.googleapis.com/") + type);
  message.SerializeToString(any.mutable_value());
}

/// The Listener of `name`: all calls go to `cluster`, or to those of its versions, each with its weight.
inline std::string listener_resource(const std::string& name, const std::string& cluster,
                                     const TrafficSplit& split, const ServiceRule& rule) {
  xds::HttpConnectionManager manager;
  auto& filter = *manager.add_http_filters();
  filter.set_name("router");
  pack(*filter.mutable_typed_config(), "envoy.extensions.filters.http.router.v3.Router", xds::Router());
  auto& host = *manager.mutable_route_config()->add_virtual_hosts();
  host.add_domains("*");
  auto& route = *host.add_routes();
  route.mutable_match()->set_prefix("");
  auto& action = *route.mutable_route();
  if (split.empty()) {
    action.set_cluster(cluster);
  } else {
    auto& weighted = *action.mutable_weighted_clusters();
    weighted.mutable_total_weight()->set_value(split.total);
    for (const VersionWeight& part : split.versions) {
      auto& each = *weighted.add_clusters();
      each.set_name(ClusterName::part_of(cluster, part.version));
      each.mutable_weight()->set_value(part.weight);
    }
  }
  if (rule.balancing == Balancing::RingHash) {
    auto& policy = *action.add_hash_policy();
    if (rule.hash_header.empty()) {
      policy.mutable_filter_state()->set_key("io.grpc.channel_id");
    } else {
      policy.mutable_header()->set_header_name(rule.hash_header);
    }
  }
  xds::Listener listener;
  listener.set_name(name);
  pack(*listener.mutable_api_listener()->mutable_api_listener(),
       "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager);
  return listener.SerializeAsString();
}

/// The Cluster of `name`, whose endpoints have the same name.
inline std::string cluster_resource(const std::string& name, const ServiceRule& rule) {
  xds::Cluster cluster;
  cluster.set_name(name);
  cluster.set_type(xds::Cluster::EDS);
  cluster.mutable_eds_cluster_config()->mutable_eds_config()->mutable_ads();
  // Without this gRPC lets no more than 1024 calls through at a time.
  cluster.mutable_circuit_breakers()->add_thresholds()->mutable_max_requests()->set_value(
      std::numeric_limits<std::uint32_t>::max());
  if (rule.balancing == Balancing::RingHash) {
    cluster.set_lb_policy(xds::Cluster::RING_HASH);
    // gRPC 1.51 has no cap of its own, and a ring of 8 million entries for two instances.
    cluster.mutable_ring_hash_lb_config()->mutable_minimum_ring_size()->set_value(1024);
    cluster.mutable_ring_hash_lb_config()->mutable_maximum_ring_size()->set_value(4096);
  }
  return cluster.SerializeAsString();
}

/// The endpoints of the Cluster `name`.
inline std::string endpoints_resource(const std::string& name, const EndpointAssignment& assignment) {
  xds::ClusterLoadAssignment made;
  made.set_cluster_name(name);
  std::uint32_t priority = 0;
  for (const auto& localities : assignment.priorities) {
    for (const PublishedLocality& each : localities) {
      auto& locality = *made.add_endpoints();
      locality.mutable_locality()->set_region(each.region);
      locality.mutable_locality()->set_zone(each.zone);
      locality.mutable_locality()->set_sub_zone(each.sub_zone);
      locality.mutable_load_balancing_weight()->set_value(each.weight);
      locality.set_priority(priority);
      for (const PublishedEndpoint& from : each.endpoints) {
        auto& endpoint = *locality.add_lb_endpoints();
        auto& address = *endpoint.mutable_endpoint()->mutable_address()->mutable_socket_address();
        address.set_address(from.ip);
        address.set_port_value(from.port);
        endpoint.mutable_load_balancing_weight()->set_value(from.weight);
      }
    }
    ++priority;
  }
  return made.SerializeAsString();
}

inline std::size_t count_endpoints(const EndpointAssignment& assignment) {
  std::size_t count = 0;
  for (const auto& localities : assignment.priorities) {
    for (const PublishedLocality& each : localities) count += each.endpoints.size();
  }
  return count;
}

}  // namespace registry::detail
