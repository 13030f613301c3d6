// What a MemoryStore holds: pairs, leases and the history of changes, under etcd's rules. Plain data: it
// takes no lock and reads no clock.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"
#include "registry/model/limits.hpp"
#include "registry/model/text.hpp"
#include "registry/store/check_commit.hpp"

namespace registry::detail {

/// Not thread-safe. Pairs are immutable once stored, so the current state and the history share them.
class MemoryTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Pair = std::shared_ptr<const KeyValue>;

  /// One change of one key: what was there, what is there now (null: nothing).
  struct Step {
    Pair before, after;
    const std::string& key() const { return (after ? after : before)->key; }
  };
  using Steps = std::vector<Step>;

  struct HeldLease {
    std::chrono::seconds ttl{0};
    TimePoint deadline;
    std::set<std::string> keys;
  };

  MemoryTable(std::chrono::seconds min_ttl, std::size_t max_history, Limits limits)
      : min_ttl_(min_ttl), max_history_(max_history), limits_(limits) {
    history_.emplace_back();
  }

  std::int64_t revision() const { return revision_; }
  std::int64_t compacted() const { return compacted_; }
  /// The first revision that a watch may start from.
  std::int64_t oldest() const { return oldest_; }
  Limits limits() const { return limits_; }
  const std::map<std::string, Pair>& pairs() const { return pairs_; }
  const std::map<std::int64_t, HeldLease>& leases() const { return leases_; }
  /// What happened at a revision, from `oldest()` to `revision()`.
  const Steps& steps(std::int64_t at) const { return history_[static_cast<std::size_t>(at - oldest_)]; }

  Page list(const ListQuery& query) const {
    if (query.range.begin.empty()) fail(errc::invalid_argument, "range.begin = \"\": a key is not empty");
    if (query.revision < 0) {
      fail(errc::invalid_argument, "revision = " + std::to_string(query.revision) + ": use 0 for the newest");
    }
    if (query.revision > revision_) fail(errc::future_revision, "revision " + std::to_string(query.revision));
    if (query.revision != 0 && query.revision < compacted_) {
      fail(errc::compacted, "revision " + std::to_string(query.revision));
    }
    Page page;
    page.revision = query.revision == 0 ? revision_ : query.revision;
    const auto first = [&query](const auto& map) {
      return query.after < query.range.begin ? map.lower_bound(query.range.begin)
                                             : map.upper_bound(query.after);
    };
    // The past is the present with the keys that changed since then as they were before their first change.
    std::map<std::string, Pair> past;
    for (std::int64_t at = page.revision + 1; at <= revision_; ++at) {
      for (const Step& step : steps(at)) {
        if (query.range.contains(step.key())) past.emplace(step.key(), step.before);
      }
    }
    auto now_at = first(pairs_);
    auto past_at = first(past);
    while (true) {
      const bool now_left = now_at != pairs_.end() && query.range.contains(now_at->first);
      const bool past_left = past_at != past.end();
      if (!now_left && !past_left) break;
      const bool use_past = past_left && (!now_left || past_at->first <= now_at->first);
      if (use_past && now_left && past_at->first == now_at->first) ++now_at;
      const Pair pair = use_past ? (past_at++)->second : (now_at++)->second;
      if (!pair) continue;
      if (query.limit != 0 && page.items.size() == query.limit) {
        page.more = true;
        break;
      }
      KeyValue& item = page.items.emplace_back();
      if (query.keys_only) {
        item.key = pair->key;
        item.create_revision = pair->create_revision;
        item.mod_revision = pair->mod_revision;
        item.lease = pair->lease;
      } else {
        item = *pair;
      }
    }
    return page;
  }

  Committed commit(const std::vector<Write>& writes) {
    check_commit(writes, limits_);
    check_leases(writes);
    Committed done;
    Steps steps;
    for (const Write& write : writes) {
      Written& result = done.results.emplace_back();
      const auto found = pairs_.find(write.key);
      result.applied = holds(write);
      if (!result.applied) {
        if (found != pairs_.end()) result.found = *found->second;
        continue;
      }
      steps.push_back(write.value ? put(write.key, *write.value, write.lease) : erase(found));
    }
    done.revision = record(std::move(steps));
    return done;
  }

  /// A write that asks nobody: what another program might do.
  std::int64_t put_unguarded(const std::string& key, const std::string& value, std::int64_t lease) {
    if (key.empty()) fail(errc::invalid_argument, "key = \"\": must not be empty");
    if (lease != 0 && leases_.count(lease) == 0) fail(errc::lease_lost, "lease " + std::to_string(lease));
    return record(Steps(1, put(key, value, lease)));
  }
  bool erase_unguarded(const std::string& key) {
    const auto found = pairs_.find(key);
    if (found == pairs_.end()) return false;
    record(Steps(1, erase(found)));
    return true;
  }

  std::chrono::seconds grant(std::int64_t id, std::chrono::seconds ttl, TimePoint now) {
    if (ttl > max_ttl) {
      fail(errc::invalid_argument, "ttl = " + std::to_string(ttl.count()) + " s: use at most " +
                                       std::to_string(max_ttl.count()) + " s");
    }
    if (leases_.count(id) != 0) fail(errc::lease_exists, "lease " + std::to_string(id));
    ttl = std::max(ttl, min_ttl_);
    restore_lease(id, ttl, now);
    return ttl;
  }

  /// Zero: there is no such lease.
  std::chrono::seconds renew(std::int64_t id, TimePoint now) {
    const auto found = leases_.find(id);
    if (found == leases_.end()) return std::chrono::seconds(0);
    deadlines_.erase({found->second.deadline, id});
    found->second.deadline = now + found->second.ttl;
    deadlines_.emplace(found->second.deadline, id);
    return found->second.ttl;
  }

  /// Ends a lease and deletes its keys at one revision. False: there is no such lease.
  bool end_lease(std::int64_t id) {
    const auto found = leases_.find(id);
    if (found == leases_.end()) return false;
    const std::set<std::string> keys = std::move(found->second.keys);
    deadlines_.erase({found->second.deadline, id});
    leases_.erase(found);
    Steps steps;
    for (const std::string& key : keys) steps.push_back(erase(pairs_.find(key)));
    record(std::move(steps));
    return true;
  }

  /// A lease that has run out, if there is one.
  std::optional<std::int64_t> due(TimePoint now) const {
    if (deadlines_.empty() || deadlines_.begin()->first > now) return std::nullopt;
    return deadlines_.begin()->second;
  }
  std::optional<TimePoint> next_deadline() const {
    if (deadlines_.empty()) return std::nullopt;
    return deadlines_.begin()->first;
  }

  /// Forgets what came before `revision`; a list of it and a watch from it are still possible.
  void compact(std::int64_t revision) {
    if (revision > revision_) fail(errc::future_revision, "revision " + std::to_string(revision));
    if (revision <= compacted_) fail(errc::compacted, "revision " + std::to_string(revision));
    compacted_ = revision;
    while (oldest_ < revision) forget_oldest();
  }

  /// Loading: nothing before `revision`, and not what happened at it, is known.
  void restore_revision(std::int64_t revision) {
    revision_ = compacted_ = revision;
    oldest_ = revision + 1;
    history_.clear();
  }
  void restore_lease(std::int64_t id, std::chrono::seconds ttl, TimePoint now) {
    HeldLease& lease = leases_[id];
    lease.ttl = ttl;
    lease.deadline = now + ttl;
    deadlines_.emplace(lease.deadline, id);
  }
  void restore_pair(KeyValue pair) {
    if (pair.lease != 0) leases_.at(pair.lease).keys.insert(pair.key);
    std::string key = pair.key;
    pairs_.emplace(std::move(key), std::make_shared<const KeyValue>(std::move(pair)));
  }

 private:
  /// As in etcd, a write that its guard refuses does not ask for its lease.
  void check_leases(const std::vector<Write>& writes) const {
    for (const Write& write : writes) {
      if (write.value && write.lease != 0 && leases_.count(write.lease) == 0 && holds(write)) {
        fail(errc::lease_lost, "lease " + std::to_string(write.lease));
      }
    }
  }

  /// Whether the guard of a write lets it through.
  bool holds(const Write& write) const {
    const auto found = pairs_.find(write.key);
    if (found == pairs_.end()) return write.expected == 0 && write.value;
    return write.expected == found->second->mod_revision;
  }

  Step put(const std::string& key, const std::string& value, std::int64_t lease) {
    Pair& slot = pairs_[key];
    const Pair before = slot;
    if (before) detach(*before);
    auto after = std::make_shared<KeyValue>();
    after->key = key;
    after->value = value;
    after->mod_revision = revision_ + 1;
    after->create_revision = before ? before->create_revision : revision_ + 1;
    after->lease = lease;
    if (lease != 0) leases_.at(lease).keys.insert(key);
    slot = after;
    return Step{before, after};
  }

  Step erase(std::map<std::string, Pair>::iterator found) {
    const Pair before = found->second;
    detach(*before);
    pairs_.erase(found);
    return Step{before, nullptr};
  }

  void detach(const KeyValue& pair) {
    const auto found = leases_.find(pair.lease);
    if (found != leases_.end()) found->second.keys.erase(pair.key);
  }

  // Nothing done is no revision.
  std::int64_t record(Steps steps) {
    if (steps.empty()) return revision_;
    history_.push_back(std::move(steps));
    ++revision_;
    while (history_.size() > max_history_) {
      forget_oldest();
      compacted_ = std::max(compacted_, oldest_);
    }
    return revision_;
  }

  void forget_oldest() {
    history_.pop_front();
    ++oldest_;
  }

  std::chrono::seconds min_ttl_;
  std::size_t max_history_;
  Limits limits_;
  std::int64_t revision_ = 1;   // of an empty store, as in etcd
  std::int64_t compacted_ = 0;  // lists of older revisions are refused
  std::int64_t oldest_ = 1;     // history_[0] is this revision
  std::deque<Steps> history_;
  std::map<std::string, Pair> pairs_;
  std::map<std::int64_t, HeldLease> leases_;
  std::set<std::pair<TimePoint, std::int64_t>> deadlines_;
};

}  // namespace registry::detail
