// The instances of one service at one moment, as a view shows them. Immutable once published, shared by all
// its readers.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/model/instance.hpp"

namespace registry {

/// The instances of one service at one moment. Published ones are const and shared: any number of threads may read one.
struct ServiceSnapshot {
  std::string service;                          ///< the name of the service
  std::int64_t revision = 0;                    ///< of the store, as far as this list goes
  bool stale = false;                           ///< the store is out of reach: last known good
  std::chrono::steady_clock::time_point as_of;  ///< when the store last confirmed this list
  /// How many of these the store has no more: they vanished all at once, see RegistryConfig::disappearance_limit.
  std::size_t held = 0;
  std::vector<std::shared_ptr<const ServiceInstance>> instances;  ///< ordered by id; never null

  ServiceSnapshot() {}
  /// An empty list.
  explicit ServiceSnapshot(std::string service_name) : service(std::move(service_name)) {}

  /// The instance with this id, or null. O(log n).
  std::shared_ptr<const ServiceInstance> find(std::string_view id) const noexcept {
    const auto before = [](const auto& item, std::string_view wanted) { return item->id < wanted; };
    const auto found = std::lower_bound(instances.begin(), instances.end(), id, before);
    return found != instances.end() && (*found)->id == id ? *found : nullptr;
  }
};

}  // namespace registry
