// A Registry on three real etcd members, each behind a gate of its own, running on a pool of threads.
#pragma once

#include <asio/thread_pool.hpp>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "rig/cluster.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/world.hpp"

namespace rig {

struct ClusterWorld {
  explicit ClusterWorld(registry::RegistryConfig config = quick_config(),
                        EtcdOptions options = Cluster::quick(), std::size_t members = 3)
      : cluster(members, std::move(options)),
        gates(gates_of(cluster)),
        store(pool.get_executor(), settings(gates), observer()),
        reg(store, std::move(config), observer()) {}

  template <class T>
  T run(asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
    return rig::run(pool, std::move(work), limit);
  }

  /// The member whose gate carries our connection with the most bytes; for a Connector that only watches, or
  /// only renews, that is the one in use. `members` when none has a connection.
  std::size_t in_use() {
    std::size_t best = gates.size();
    for (std::size_t i = 0; i < gates.size(); ++i) {
      if (gates[i]->connections() == 0) continue;
      if (best == gates.size() || gates[i]->bytes_down() > gates[best]->bytes_down()) best = i;
    }
    return best;
  }

  /// For writers and oracles: around the gates.
  std::vector<std::string> direct() const { return cluster.endpoints(); }

  static std::vector<std::unique_ptr<Gate>> gates_of(Cluster& cluster) {
    std::vector<std::unique_ptr<Gate>> gates;
    for (std::size_t i = 0; i < cluster.size(); ++i)
      gates.push_back(std::make_unique<Gate>(cluster[i].endpoint()));
    return gates;
  }
  static registry::etcd::ConnectorConfig settings(const std::vector<std::unique_ptr<Gate>>& gates) {
    auto config = connector_config("");
    config.endpoints.clear();
    for (const auto& gate : gates) config.endpoints.push_back(gate->endpoint());
    return config;
  }

  Cluster cluster;
  std::vector<std::unique_ptr<Gate>> gates;
  asio::thread_pool pool{2};
  registry::etcd::Connector store;
  registry::Registry reg;
};

}  // namespace rig
