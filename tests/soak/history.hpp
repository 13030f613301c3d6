// What was in the store and when, by the oracle alone; and whether what somebody saw agrees with it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"
#include "rig/raw_etcd.hpp"

namespace soak {

using Clock = std::chrono::steady_clock;
/// A key, in short. Keys are few, events many.
using KeyId = std::uint32_t;

/// Thread-safe.
class KeyNames {
 public:
  KeyId id(const std::string& service, const std::string& instance);
  std::string service(KeyId id) const;
  std::string text(KeyId id) const;  // "service/instance"

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, KeyId> ids_;
  std::vector<std::pair<std::string, std::string>> names_;
};

/// Stands for the whole content of an instance: every write of this program has a serial number of its own.
std::uint64_t content_of(const registry::ServiceInstance& instance);

/// A change as somebody saw it; `content` of a removal is what was there before.
struct Seen {
  std::int64_t revision = 0;
  std::uint64_t content = 0;
  KeyId key = 0;
  bool deleted = false, resynced = false;

  bool same(const Seen& other) const {
    return revision == other.revision && content == other.content && key == other.key &&
           deleted == other.deleted;
  }
};

/// What is there: the revision and the content of each key.
using State = std::map<KeyId, std::pair<std::int64_t, std::uint64_t>>;

/// The changes of one service behind a filter, in order, with what a watcher must be told of them.
class Effects {
 public:
  void add(const Seen& effect);
  const std::vector<Seen>& all() const { return all_; }
  /// The first one behind a revision.
  std::size_t behind(std::int64_t revision) const;
  State at(std::int64_t revision) const;
  State at_end() const { return at(INT64_MAX); }
  /// Of one key, as positions in all().
  const std::vector<std::size_t>& of(KeyId key) const;

 private:
  std::vector<Seen> all_;
  std::unordered_map<KeyId, std::vector<std::size_t>> by_key_;
};

/// One event of the oracle.
struct Happened {
  Seen seen;  // content of a removal: none
  std::int64_t lease = 0;
  std::string version;
  Clock::time_point arrived;
  bool valid = false;
};

class History {
 public:
  explicit History(KeyNames& names) : names_(names) {}
  void add(const std::vector<rig::RawEvent>& events);
  /// Forgets what came later.
  void end_at(std::int64_t revision);
  /// Of one service, or of all; of one version, or of all.
  Effects effects(const std::string& service, const std::string& version = {}) const;
  const std::vector<Happened>& all() const { return all_; }
  std::size_t bytes() const { return all_.capacity() * sizeof(Happened); }

 private:
  KeyNames& names_;
  std::vector<Happened> all_;
};

/// How the log of a watcher compares with the truth.
struct Comparison {
  std::string wrong;    // the first thing; empty: nothing
  std::string inexact;  // why the log is not the truth line by line between its relists; empty: it is
  /// The places where it goes on from another state, resynced events or not, without a full queue to explain it.
  std::vector<std::string> relists;
  std::size_t folds = 0;   // places where the watcher's queue had been full
  std::size_t unseen = 0;  // not resynced, but an instance had come and gone unseen before
  std::size_t resynced = 0;
};

/// `to_end`: nothing is under way any more, so the last state must be reached. `queue`: how many events in one go a
/// watcher's queue may have folded.
Comparison compare(const std::vector<Seen>& log, const Effects& truth, bool to_end, std::size_t queue,
                   const KeyNames& names);

}  // namespace soak
