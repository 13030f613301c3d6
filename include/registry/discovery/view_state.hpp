// What the handles of one subscription share: the table they look at, and the list built from it when
// somebody reads.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

#include "registry/async/signal.hpp"
#include "registry/discovery/instance_table.hpp"
#include "registry/discovery/own_count.hpp"
#include "registry/discovery/snapshot_recycler.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/immortal.hpp"

namespace registry::detail {

/// Thread-safe. Versions go up by one for each change; version 0 is "not loaded yet". Stamps go up with them, and when
/// the store confirms a list that has not changed.
class ViewState {
 public:
  using Snapshot = std::shared_ptr<const ServiceSnapshot>;

  explicit ViewState(ServiceFilter filter) : filter_(std::move(filter)) {}
  ~ViewState() {
    if (gone_) gone_();
  }
  ViewState(const ViewState&) = delete;
  ViewState& operator=(const ViewState&) = delete;

  // ---- the writer: the strand that follows the service

  /// Set before the view is attached. `gone` runs when the last handle is gone, on its thread.
  void on_gone(std::function<void()> gone) { gone_ = std::move(gone); }

  void attach(std::shared_ptr<const InstanceTable> table) {
    const std::lock_guard lock(mutex_);
    table_ = std::move(table);
    recycler_ = std::make_shared<SnapshotRecycler>();  // lists of another table are of no use
  }

  /// After the table changed. Only changes that pass the filter count, unless `all`.
  void changed(const std::vector<InstanceChange>& changes, bool all) {
    for (const InstanceChange& change : changes) {
      if (all) break;
      all = (change.before && filter_.matches(*change.before)) ||
            (change.after && filter_.matches(*change.after));
    }
    if (!all) return;
    // The table is written before: who sees the stamp sees the table, and who sees the version sees the stamp.
    stamp_.fetch_add(1, std::memory_order_release);
    version_.fetch_add(1, std::memory_order_release);
    wake();
  }

  /// The table has a newer revision, and nothing else.
  void confirmed() noexcept { stamp_.fetch_add(1, std::memory_order_release); }

  void failed(const Problem& why) {
    {
      const std::lock_guard lock(mutex_);
      error_ = why;
    }
    if (version() == 0) wake();
  }

  void close() {
    if (closed_.exchange(true)) return;
    wake();
  }

  // ---- the readers: any thread

  std::uint64_t id() const noexcept { return id_; }
  std::uint64_t version() const noexcept { return version_.load(std::memory_order_acquire); }
  bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }

  /// Why the last try to reach the store failed.
  Problem error() const {
    const std::lock_guard lock(mutex_);
    return error_;
  }

  /// The current list. The reference is valid until this thread reads another view. Each thread keeps its
  /// last list of a view, under a control block of its own: readers on several threads share no counter.
  const Snapshot& current() const noexcept {
    thread_local std::array<Cached, 32> cache;
    Cached& cached = cache[id_ % cache.size()];
    const std::uint64_t wanted = stamp_.load(std::memory_order_acquire);
    if (cached.view == id_ && cached.stamp == wanted) return cached.snapshot;
    try {
      cached.snapshot = own_count(build(wanted));
      cached.view = id_;
      cached.stamp = wanted;
      return cached.snapshot;
    } catch (...) {  // out of memory: the next read tries again
      return cached.view == id_ ? cached.snapshot : none();
    }
  }

  /// An empty, stale list.
  static const Snapshot& none() {
    static const Immortal<Snapshot> empty([] {
      auto snapshot = std::make_shared<ServiceSnapshot>();
      snapshot->stale = true;
      return snapshot;
    }());
    return *empty;
  }

  /// A wake-up at each change while it exists.
  class Waiting {
   public:
    explicit Waiting(std::shared_ptr<ViewState> view) : view_(std::move(view)) {
      const std::lock_guard lock(view_->mutex_);
      place_ = view_->waiting_.emplace(view_->waiting_.end());
    }
    ~Waiting() {
      const std::lock_guard lock(view_->mutex_);
      view_->waiting_.erase(place_);
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

    const Signal& signal() const { return *place_; }

   private:
    std::shared_ptr<ViewState> view_;
    std::list<Signal>::iterator place_;
  };

 private:
  struct Cached {
    std::uint64_t view = 0, stamp = 0;
    Snapshot snapshot;
  };

  // Changes that come before anybody reads make one list; readers that come together share it.
  Snapshot build(std::uint64_t wanted) const {
    const std::lock_guard lock(mutex_);
    if (built_stamp_ < wanted && table_) {
      const std::uint64_t before = stamp_.load(std::memory_order_acquire);
      built_ = recycler_->lend(table_->snapshot(filter_, recycler_->take()));
      built_stamp_ = before;
    }
    return built_ ? built_ : none();
  }

  void wake() {
    const std::lock_guard lock(mutex_);
    for (const Signal& signal : waiting_) signal.raise();
  }

  const std::uint64_t id_ = new_key();
  const ServiceFilter filter_;
  std::atomic<std::uint64_t> version_{0}, stamp_{0};
  std::atomic<bool> closed_{false};
  std::function<void()> gone_;

  mutable std::mutex mutex_;
  std::shared_ptr<const InstanceTable> table_;
  std::shared_ptr<SnapshotRecycler> recycler_;  // as there is a table
  mutable Snapshot built_;
  mutable std::uint64_t built_stamp_ = 0;
  Problem error_;
  std::list<Signal> waiting_;
};

}  // namespace registry::detail
