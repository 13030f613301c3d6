// Lists that nobody reads any more come back, and are brought up to date instead of made anew: a change then costs what it
// changes, not what there is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "registry/model/snapshot.hpp"

namespace registry::detail {

/// A list, and how many changes of its table it has seen.
struct CountedSnapshot {
  std::unique_ptr<ServiceSnapshot> list;
  std::uint64_t changes = 0;
};

/// Keeps one list at most: the newest that came back. Thread-safe.
class SnapshotRecycler : public std::enable_shared_from_this<SnapshotRecycler> {
 public:
  /// Lists that have missed more changes than that are not kept: what has gone meanwhile would live on in them.
  static constexpr std::uint64_t most_missed = 64;

  /// For readers; it comes back when the last of them lets go.
  std::shared_ptr<const ServiceSnapshot> lend(CountedSnapshot made) {
    {
      const std::lock_guard lock(mutex_);
      newest_ = made.changes;
    }
    auto take_back = [self = shared_from_this(), changes = made.changes](ServiceSnapshot* list) {
      self->take_back({std::unique_ptr<ServiceSnapshot>(list), changes});
    };
    return std::shared_ptr<ServiceSnapshot>(made.list.release(), std::move(take_back));
  }

  /// The list that came back; none if there is none.
  CountedSnapshot take() noexcept {
    const std::lock_guard lock(mutex_);
    return std::exchange(kept_, CountedSnapshot());
  }

 private:
  void take_back(CountedSnapshot list) noexcept {
    const std::lock_guard lock(mutex_);
    const bool newer = !kept_.list || kept_.changes < list.changes;
    if (newer && newest_ - list.changes <= most_missed) std::swap(kept_, list);
  }

  std::mutex mutex_;
  CountedSnapshot kept_;
  std::uint64_t newest_ = 0;
};

}  // namespace registry::detail
