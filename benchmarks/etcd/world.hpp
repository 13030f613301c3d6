// What the rows of etcd.cpp have in common: instances as in the field, and writing them without the library.
#pragma once

#include <asio/thread_pool.hpp>
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "registry/etcd/connector.hpp"
#include "registry/model/encode.hpp"
#include "registry/model/keys.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/run.hpp"

namespace bench {

inline constexpr auto service = "user-service";
inline constexpr std::chrono::seconds ttl{30};

/// Metadata, and one endpoint. The version is a number that its reader can check.
inline registry::ServiceInstance instance(std::size_t number, std::int64_t version = 1) {
  registry::ServiceInstance made(service, "user-" + std::to_string(100000 + number));
  made.version = std::to_string(version);
  made.metadata = {{"weight", std::to_string(1 + number % 7)}, {"region", "eu"}, {"zone", "eu-1"}};
  made.endpoints = {"grpc://10.0." + std::to_string(number / 250 % 250) + "." +
                    std::to_string(1 + number % 250) + ":9001"};
  return made;
}

using Pair = std::pair<std::string, std::string>;  // key and value

inline Pair pair(std::size_t number, std::int64_t version = 1) {
  const registry::ServiceInstance made = instance(number, version);
  return {registry::KeyLayout().key_of(service, made.id), registry::encode(made)};
}

inline std::vector<Pair> pairs(std::size_t count) {
  std::vector<Pair> made;
  for (std::size_t i = 0; i < count; ++i) made.push_back(pair(i));
  return made;
}

inline void written(const rig::RawEtcd& etcd, bool ok) {
  if (!ok) throw std::runtime_error("a write: " + etcd.status().error_message());
}

/// In transactions of 100.
inline void fill(rig::RawEtcd& etcd, const std::vector<Pair>& all) {
  for (std::size_t at = 0; at < all.size(); at += 100) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(at);
    const std::vector<Pair> some(
        begin, begin + static_cast<std::ptrdiff_t>(std::min<std::size_t>(100, all.size() - at)));
    written(etcd, etcd.put_all(some).has_value());
  }
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
