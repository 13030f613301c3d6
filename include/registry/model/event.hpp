// What a watch of a service delivers: an instance came or changed, or it went away.
#pragma once

#include <cstdint>
#include <utility>

#include "registry/model/instance.hpp"

namespace registry {

/// What happened to an instance.
enum class EventType {
  Put,     ///< the instance came, changed, or entered the filter
  Delete,  ///< the instance went away, or left the filter
};

/// One change of a service.
struct ServiceEvent {
  EventType type = EventType::Put;  ///< what happened
  ServiceInstance service;          ///< on Delete: the last known instance (id and name at the least)
  std::int64_t revision = 0;        ///< of the store
  bool resynced = false;            ///< re-listed or folded: states in between may have been skipped

  ServiceEvent() {}
  /// An event with these members.
  ServiceEvent(EventType event_type, ServiceInstance instance, std::int64_t at_revision,
               bool was_resynced = false)
      : type(event_type), service(std::move(instance)), revision(at_revision), resynced(was_resynced) {}

  friend bool operator==(const ServiceEvent&, const ServiceEvent&) = default;
};

}  // namespace registry
