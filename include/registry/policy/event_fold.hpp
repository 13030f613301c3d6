// What one watcher is still to be told: every change in order while it keeps up, one event for each instance
// once it does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "registry/model/event.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"

namespace registry {

/// One change of a service's table: what was known before (null: nothing) and what is known now (null: gone).
struct InstanceChange {
  /// What was known before, or what is known now; null: nothing.
  std::shared_ptr<const ServiceInstance> before, after;
  std::int64_t revision = 0;  ///< of the store
  bool resynced = false;      ///< seen in a list: states in between may have been skipped

  InstanceChange() {}
  /// A change with these members.
  InstanceChange(std::shared_ptr<const ServiceInstance> old, std::shared_ptr<const ServiceInstance> now,
                 std::int64_t at, bool from_list)
      : before(std::move(old)), after(std::move(now)), revision(at), resynced(from_list) {}
};

/// An event that shares the instance instead of copying it.
struct SharedEvent {
  EventType type = EventType::Put;                  ///< as in ServiceEvent, like the rest
  std::shared_ptr<const ServiceInstance> instance;  ///< never null in an event that was queued
  std::int64_t revision = 0;                        ///< of the store
  bool resynced = false;                            ///< re-listed or folded

  SharedEvent() {}
};

/// The events that one watcher has not taken yet.
///
/// Must see every change of the table since it was empty, in order. From a queue of `limit` events on it folds
/// until it is empty again: the newest event of an instance stands for the earlier ones and is marked resynced,
/// so its size is bounded by the instances that the consumer was given and those that there are. Once an
/// instance came and went unseen, all that follows is marked until the queue is empty.
///
/// Thread safety: none of its own; keep it on one strand.
class EventFold {
 public:
  /// Nothing queued; `limit` is a number of events.
  EventFold(ServiceFilter filter, std::size_t limit) : filter_(std::move(filter)), limit_(limit) {}

  /// Queues what the change means behind the filter: entering it is a Put, leaving it a Delete.
  void push(const InstanceChange& change) {
    Item item;
    item.given = change.before && filter_.matches(*change.before);
    const bool stays = change.after && filter_.matches(*change.after);
    if (!item.given && !stays) return;
    item.event.type = stays ? EventType::Put : EventType::Delete;
    item.event.instance = stays ? change.after : change.before;
    item.event.revision = change.revision;
    item.event.resynced = change.resynced;
    items_.push_back(std::move(item));
    if (folding_) {
      fold(std::prev(items_.end()));
    } else if (items_.size() > limit_) {
      folding_ = true;
      for (auto each = items_.begin(); each != items_.end();) fold(each++);
    }
  }

  /// Takes the next event; empty if there is none.
  std::optional<SharedEvent> pop() {
    if (items_.empty()) return std::nullopt;
    std::optional<SharedEvent> event(std::move(items_.front().event));
    if (folding_) newest_.erase(event->instance->id);
    items_.pop_front();
    if (items_.empty()) folding_ = skipped_ = false;
    return event;
  }

  /// Forgets everything that is queued.
  void clear() noexcept {
    newest_.clear();
    items_.clear();
    folding_ = skipped_ = false;
  }

  /// Whether nothing is queued.
  bool empty() const noexcept { return items_.empty(); }
  /// How many events are queued.
  std::size_t size() const noexcept { return items_.size(); }

 private:
  struct Item {
    SharedEvent event;
    bool given = false;  // when this event's turn comes, the consumer has been given the instance
  };
  using Place = std::list<Item>::iterator;

  void fold(Place place) {
    Item& item = *place;
    item.event.resynced = item.event.resynced || skipped_;
    const auto earlier = newest_.find(item.event.instance->id);
    if (earlier != newest_.end()) {
      item.given = earlier->second->given;
      item.event.resynced = true;
      const auto replaced = earlier->second;
      newest_.erase(earlier);  // its key points into the item
      items_.erase(replaced);
    }
    if (!item.given && item.event.type == EventType::Delete) {
      items_.erase(place);  // came and went unseen
      skipped_ = true;
    } else {
      newest_.emplace(item.event.instance->id, place);
    }
  }

  ServiceFilter filter_;
  std::size_t limit_;
  std::list<Item> items_;
  std::unordered_map<std::string_view, Place> newest_;  // while folding: the one item of each instance
  bool folding_ = false;
  bool skipped_ = false;  // an instance came and went unseen
};

}  // namespace registry
