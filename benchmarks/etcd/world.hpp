// What the rows of etcd.cpp have in common: one service, and where it is.
#pragma once

#include <asio/thread_pool.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "instances.hpp"
#include "registry/etcd/connector.hpp"
#include "registry/model/keys.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/run.hpp"

namespace bench {

inline constexpr auto service = "user-service";
inline constexpr std::chrono::seconds ttl{30};

/// The version is a number that its reader can check.
inline registry::ServiceInstance instance(std::size_t number, std::int64_t version = 1) {
  return field_instance(service, "user-" + std::to_string(100000 + number), number, std::to_string(version));
}

inline Pair pair(std::size_t number, std::int64_t version = 1) { return pair_of(instance(number, version)); }

inline std::vector<Pair> pairs(std::size_t count) {
  std::vector<Pair> made;
  for (std::size_t i = 0; i < count; ++i) made.push_back(pair(i));
  return made;
}

/// How many keys the service has, counted by the floor's own hands.
inline std::size_t count(rig::RawEtcd& etcd) {
  return etcd.list(registry::KeyLayout().service_range(service).begin).size();
}

inline registry::etcd::ConnectorConfig at(const std::string& endpoint) {
  registry::etcd::ConnectorConfig config;
  config.endpoints = {endpoint};
  return config;
}

}  // namespace bench
