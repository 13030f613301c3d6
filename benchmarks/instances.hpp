// Instances as they are in the field, and writing them into etcd without the library.
#pragma once

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "registry/model/encode.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/keys.hpp"
#include "rig/raw_etcd.hpp"

namespace bench {

/// Three metadata entries, and one endpoint.
inline registry::ServiceInstance field_instance(const std::string& service, const std::string& id,
                                                std::size_t number, std::string version) {
  registry::ServiceInstance made(service, id);
  made.version = std::move(version);
  made.metadata = {{"weight", std::to_string(1 + number % 7)}, {"region", "eu"}, {"zone", "eu-1"}};
  made.endpoints = {"grpc://10.0." + std::to_string(number / 250 % 250) + "." +
                    std::to_string(1 + number % 250) + ":9001"};
  return made;
}

using Pair = std::pair<std::string, std::string>;  // key and value

inline Pair pair_of(const registry::ServiceInstance& made) {
  return {registry::KeyLayout().key_of(made.name, made.id), registry::encode(made)};
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

}  // namespace bench
