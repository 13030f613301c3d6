// All that is known of one service: its keys, their revisions and the decoded instances.
#pragma once

#include <boost/container/flat_set.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/discovery/snapshot_recycler.hpp"
#include "registry/discovery/value_reader.hpp"
#include "registry/model/encode.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/snapshot.hpp"
#include "registry/policy/disappearance_guard.hpp"
#include "registry/policy/event_fold.hpp"
#include "registry/policy/snapshot_diff.hpp"

namespace registry::detail {

/// Written on one strand; `snapshot` may be called from any thread, everything else on that strand only. The
/// stored values are not kept. A key whose value is bad, or that is no instance's, is kept without an
/// instance: an instance it held before is gone. What the guard holds is shown by `snapshot` alone.
class InstanceTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  InstanceTable(std::string service, const KeyLayout& layout, const Observer& observer,
                DisappearanceGuard guard = DisappearanceGuard(1.0, std::chrono::milliseconds(1)))
      : service_(std::move(service)),
        prefix_(layout.service_range(service_).begin),
        reader_(layout, observer),
        guard_(std::move(guard)) {}

  void begin_list() { listed_.clear(); }

  /// `same_history`: what is known at the same revision is the same, and is not decoded again.
  void list_page(const Page& page, bool same_history) {
    for (const KeyValue& pair : page.items) {
      const auto known = same_history ? entries_.find(id_of(pair.key)) : entries_.end();
      if (known != entries_.end() && known->mod_revision == pair.mod_revision) {
        listed_.insert(listed_.end(), *known);
      } else {
        listed_.insert(listed_.end(), read(pair));
      }
    }
  }

  /// What the list changed: removals first, then what is new or different, each in the order of ids. A Put
  /// carries the revision of its key, a removal that of the list. `first`: the changes are not marked
  /// resynced.
  std::vector<InstanceChange> end_list(std::int64_t revision, bool same_history, bool first) {
    const SnapshotDiff diff = snapshot_diff(keys(entries_), keys(listed_), same_history);
    std::vector<InstanceChange> changes;
    auto old = entries_.begin();
    std::size_t at = 0;
    for (const std::size_t removed : diff.removed) {
      while (at < removed) ++old, ++at;
      if (old->valid) changes.emplace_back(old->instance, nullptr, revision, !first);
    }
    std::vector<InstanceChange> written;
    auto fresh = listed_.begin();
    at = 0;
    for (const std::size_t position : diff.written) {
      while (at < position) ++fresh, ++at;
      const auto known = entries_.find(fresh->instance->id);
      auto before = known != entries_.end() && known->valid ? known->instance : nullptr;
      auto after = fresh->valid ? fresh->instance : nullptr;
      if (!before && !after) continue;
      const bool same_revision = known != entries_.end() && known->mod_revision == fresh->mod_revision;
      if (same_revision && before && after && *before == *after) continue;
      auto& list = after ? written : changes;
      list.emplace_back(std::move(before), std::move(after), fresh->mod_revision, !first);
    }
    changes.insert(changes.end(), std::make_move_iterator(written.begin()),
                   std::make_move_iterator(written.end()));
    listed_.shrink_to_fit();
    {
      const std::lock_guard lock(mutex_);
      entries_.swap(listed_);
      recent_.clear();
      ++changes_;
      confirm(revision);
      judge(changes);
      stale_ = false;
    }
    listed_ = Entries();
    return changes;
  }

  /// What the batch changed, in its order. A change that is not newer than what is known changes nothing.
  std::vector<InstanceChange> apply(const Batch& batch) {
    std::vector<InstanceChange> changes;
    changes.reserve(batch.changes.size());
    std::vector<Entry> read_entries;
    read_entries.reserve(batch.changes.size());
    for (const Change& change : batch.changes) {
      read_entries.push_back(change.deleted ? Entry()
                                            : read(change.kv));  // calls the observer: no lock is held
    }
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < read_entries.size(); ++i) {
      change_one(batch.changes[i], std::move(read_entries[i]), changes);
    }
    remember(changes);
    confirm(batch.through);
    judge(changes);
    return changes;
  }

  void mark_fresh() {
    const std::lock_guard lock(mutex_);
    as_of_ = std::chrono::steady_clock::now();
    stale_ = false;
  }
  void mark_stale() {
    const std::lock_guard lock(mutex_);
    stale_ = true;
  }
  /// The list is an old one, from another source than the store.
  void mark_stale(TimePoint as_of) {
    const std::lock_guard lock(mutex_);
    as_of_ = as_of;
    stale_ = true;
  }

  /// Gives up what was held for long enough.
  void release(TimePoint now) {
    const std::lock_guard lock(mutex_);
    if (guard_.passed(now).release) held_.clear();
  }
  /// While anything is held: when release() gives it up. Else the far future.
  TimePoint release_due() const { return guard_.due(); }
  std::size_t held() const { return held_.size(); }
  std::size_t live() const { return live_; }

  /// Every instance as a change from nothing: what a new watcher is told.
  std::vector<InstanceChange> all() const {
    std::vector<InstanceChange> changes;
    for (const Entry& entry : entries_) {
      if (entry.valid) changes.emplace_back(nullptr, entry.instance, entry.mod_revision, false);
    }
    return changes;
  }

  std::vector<std::pair<std::string, std::int64_t>> known() const {
    std::vector<std::pair<std::string, std::int64_t>> keys;
    keys.reserve(entries_.size());
    for (const Entry& entry : entries_) keys.emplace_back(prefix_ + entry.instance->id, entry.mod_revision);
    return keys;
  }

  std::int64_t revision() const { return revision_; }

  /// Every instance as the store could have it.
  std::vector<std::shared_ptr<const KeyValue>> pairs() const {
    std::vector<std::shared_ptr<const KeyValue>> pairs;
    pairs.reserve(entries_.size());
    for (const Entry& entry : entries_) {
      if (!entry.valid) continue;
      KeyValue pair;
      pair.key = prefix_ + entry.instance->id;
      pair.value = encode(*entry.instance);
      pair.create_revision = pair.mod_revision = entry.mod_revision;
      pairs.push_back(std::make_shared<const KeyValue>(std::move(pair)));
    }
    return pairs;
  }

  /// The list of what passes the filter. `old`: an earlier one of the same filter, which is brought up to date if that is
  /// less work. Any thread.
  CountedSnapshot snapshot(const ServiceFilter& filter, CountedSnapshot old = CountedSnapshot()) const {
    CountedSnapshot made = std::move(old);
    if (!made.list) made.list = std::make_unique<ServiceSnapshot>(service_);
    ServiceSnapshot& list = *made.list;
    const std::lock_guard lock(mutex_);
    const std::uint64_t missed = changes_ - std::exchange(made.changes, changes_);
    if (missed <= recent_.size() && list.held == 0 && held_.empty()) {
      for (std::size_t i = recent_.size() - missed; i < recent_.size(); ++i)
        list_one(list, recent_[i], filter);
    } else {
      list_all(list, filter);
    }
    list.revision = revision_;
    list.stale = stale_;
    list.as_of = as_of_;
    return made;
  }

 private:
  // Everything but the id, which orders the set, may change in place.
  struct Entry {
    mutable std::shared_ptr<const ServiceInstance>
        instance;  // never null in the set; has only its id if not valid
    mutable std::int64_t mod_revision = 0;
    mutable bool valid = false;
  };
  struct ById {
    using is_transparent = void;
    bool operator()(const Entry& a, const Entry& b) const { return a.instance->id < b.instance->id; }
    bool operator()(const Entry& a, std::string_view id) const { return a.instance->id < id; }
    bool operator()(std::string_view id, const Entry& b) const { return id < b.instance->id; }
  };
  // Half the memory of a std::set, and read through in one go; to add one in the middle of 100,000 takes 0.1 ms.
  using Entries = boost::container::flat_set<Entry, ById>;

  static std::vector<KnownKey> keys(const Entries& entries) {
    std::vector<KnownKey> keys;
    keys.reserve(entries.size());
    for (const Entry& entry : entries) keys.emplace_back(entry.instance->id, entry.mod_revision);
    return keys;
  }

  std::string_view id_of(std::string_view key) const {
    return key.starts_with(prefix_) ? key.substr(prefix_.size()) : std::string_view();
  }

  Entry read(const KeyValue& pair) {
    Entry entry;
    entry.instance = reader_.read(pair);
    entry.mod_revision = pair.mod_revision;
    entry.valid = entry.instance != nullptr;
    if (!entry.valid) {
      entry.instance = std::make_shared<const ServiceInstance>(service_, std::string(id_of(pair.key)));
    }
    return entry;
  }

  void change_one(const Change& change, Entry entry, std::vector<InstanceChange>& changes) {
    const auto known = entries_.find(id_of(change.kv.key));
    if (known != entries_.end() && known->mod_revision >= change.kv.mod_revision) return;
    auto before = known != entries_.end() && known->valid ? known->instance : nullptr;
    auto after = entry.valid ? entry.instance : nullptr;
    if (change.deleted) {
      if (known != entries_.end()) entries_.erase(known);
    } else if (known != entries_.end()) {
      known->instance = std::move(entry.instance);
      known->mod_revision = entry.mod_revision;
      known->valid = entry.valid;
    } else {
      entries_.insert(std::move(entry));
    }
    if (before || after) {
      changes.emplace_back(std::move(before), std::move(after), change.kv.mod_revision, false);
    }
  }

  void confirm(std::int64_t revision) {
    revision_ = revision;
    as_of_ = std::chrono::steady_clock::now();
  }

  void judge(const std::vector<InstanceChange>& changes) {
    for (const InstanceChange& change : changes) {
      if (change.after) ++live_;
      if (change.before) --live_;
    }
    const auto action = guard_.changed(live_, as_of_);
    if (action.release) held_.clear();
    for (const InstanceChange& change : changes) {
      if (change.after) {
        held_.erase(change.after->id);
      } else if (action.hold) {
        held_.emplace(change.before->id, change.before);
      }
    }
  }

  /// What lists have missed that are not too old.
  void remember(const std::vector<InstanceChange>& changes) {
    changes_ += changes.size();
    const std::size_t kept = std::min<std::size_t>(changes.size(), SnapshotRecycler::most_missed);
    recent_.insert(recent_.end(), changes.end() - static_cast<std::ptrdiff_t>(kept), changes.end());
    while (recent_.size() > SnapshotRecycler::most_missed) recent_.pop_front();
  }

  void list_all(ServiceSnapshot& to, const ServiceFilter& filter) const {
    to.instances.clear();
    to.held = 0;
    const bool any = filter.any();
    if (any) to.instances.reserve(entries_.size() + held_.size());
    for (const Entry& entry : entries_) {
      if (entry.valid && (any || filter.matches(*entry.instance))) to.instances.push_back(entry.instance);
    }
    if (!held_.empty()) add_held(to, filter);
  }

  static void list_one(ServiceSnapshot& to, const InstanceChange& change, const ServiceFilter& filter) {
    const std::string& id = (change.after ? change.after : change.before)->id;
    const auto at =
        std::lower_bound(to.instances.begin(), to.instances.end(), id,
                         [](const auto& one, const std::string& wanted) { return one->id < wanted; });
    const bool there = at != to.instances.end() && (*at)->id == id;
    const bool wanted = change.after && filter.matches(*change.after);
    if (wanted && there) {
      *at = change.after;
    } else if (wanted) {
      to.instances.insert(at, change.after);
    } else if (there) {
      to.instances.erase(at);
    }
  }

  void add_held(ServiceSnapshot& to, const ServiceFilter& filter) const {
    auto& all = to.instances;
    const auto live = static_cast<std::ptrdiff_t>(all.size());
    for (const auto& [id, instance] : held_) {
      if (filter.matches(*instance)) all.push_back(instance);
    }
    to.held = all.size() - static_cast<std::size_t>(live);
    std::inplace_merge(all.begin(), all.begin() + live, all.end(),
                       [](const auto& a, const auto& b) { return a->id < b->id; });
  }

  const std::string service_, prefix_;
  ValueReader reader_;
  mutable std::mutex mutex_;  // the strand writes under it and reads without, other threads read under it
  Entries entries_;
  std::int64_t revision_ = 0;
  bool stale_ = true;
  TimePoint as_of_;
  std::deque<InstanceChange> recent_;  // the newest of all changes since the last list
  std::uint64_t changes_ = 1;          // how many there were of both; 0: a list that has seen none
  Entries listed_;                     // the list that is being read
  std::size_t live_ = 0;               // valid entries
  DisappearanceGuard guard_;
  std::map<std::string_view, std::shared_ptr<const ServiceInstance>> held_;  // by their ids
};

}  // namespace registry::detail
