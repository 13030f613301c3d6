// What travels between the library and a Store: keys, values, leases, guarded writes, batches of changes.
// Plain data without behaviour. Every type has a user-written constructor because g++ 12 miscompiles
// aggregate temporaries inside `co_await`.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace registry {

/// The half-open key range [begin, end). An empty `end` means the key `begin` alone.
struct KeyRange {
  std::string begin;  ///< the first key
  std::string end;    ///< the first key behind the range; empty: the range is `begin` alone

  KeyRange() = default;
  /// One key.
  explicit KeyRange(std::string key) : begin(std::move(key)) {}
  /// The keys from `first` to the one before `past`.
  KeyRange(std::string first, std::string past) : begin(std::move(first)), end(std::move(past)) {}

  /// Whether the key lies in the range.
  bool contains(const std::string& key) const {
    return end.empty() ? key == begin : begin <= key && key < end;
  }
  friend bool operator==(const KeyRange&, const KeyRange&) = default;
};

/// A stored pair. `lease` is 0 for a key that no lease holds.
struct KeyValue {
  std::string key;                   ///< not empty; any bytes
  std::string value;                 ///< any bytes
  std::int64_t create_revision = 0;  ///< when the key appeared, since it was last absent
  std::int64_t mod_revision = 0;     ///< when it was last written
  std::int64_t lease = 0;            ///< it goes away with this lease; 0: it stays

  KeyValue() {}
  friend bool operator==(const KeyValue&, const KeyValue&) = default;
};

/// A lease as the store granted it: `ttl` may be longer than what was asked for.
struct Lease {
  std::int64_t id = 0;          ///< never 0 for a lease that was granted
  std::chrono::seconds ttl{0};  ///< as granted

  Lease() {}
  /// A lease with this id and TTL.
  Lease(std::int64_t lease_id, std::chrono::seconds granted) : id(lease_id), ttl(granted) {}
};

/// One page of a list. Pages after the first repeat the first page's revision and name the last key seen in
/// `after`.
struct ListQuery {
  KeyRange range;             ///< the keys asked for
  std::string after;          ///< only keys behind this one; empty: from the start of the range
  std::int64_t revision = 0;  ///< 0: the newest
  std::size_t limit = 0;      ///< 0: everything at once
  bool keys_only = false;     ///< values stay empty
  bool local = false;         ///< may be answered from a replica that lags

  ListQuery() {}
  /// Everything in a range, as it is now.
  explicit ListQuery(KeyRange keys) : range(std::move(keys)) {}
};

/// The answer to a ListQuery, ordered by key. `revision` is the one the page was read at.
struct Page {
  std::string store_id;         ///< names the store; another id means another store answers
  std::int64_t revision = 0;    ///< that the page was read at
  std::vector<KeyValue> items;  ///< ordered by key
  bool more = false;            ///< there are further keys in the range: ask for those after the last one

  Page() {}
};

/// One guarded write: applied only while the key's mod_revision is `expected` (0: while the key is absent).
struct Write {
  std::string key;                   ///< not empty; once in a commit
  std::optional<std::string> value;  ///< nullopt: delete
  std::int64_t lease = 0;            ///< to attach the key to; 0: none. Ignored by a delete
  std::int64_t expected = 0;         ///< the mod_revision the key must have; 0: it must be absent

  Write() {}
  /// A write with these members.
  Write(std::string k, std::optional<std::string> v, std::int64_t lease_id, std::int64_t expected_revision)
      : key(std::move(k)), value(std::move(v)), lease(lease_id), expected(expected_revision) {}
};

/// What became of one Write. A refused write reports the pair that stands in its way, if there is one.
struct Written {
  bool applied = false;           ///< false: the guard did not hold, nothing was written
  std::optional<KeyValue> found;  ///< if refused: what stands there; empty: the key is absent

  Written() {}
};

/// What became of a commit: one revision for all its writes, one result for each, in order.
struct Committed {
  std::int64_t revision = 0;     ///< of the store, after the commit
  std::vector<Written> results;  ///< one for each write, in their order

  Committed() {}
};

/// One change of a key. A deleted key carries only `key` and `mod_revision`.
struct Change {
  bool deleted = false;  ///< the key went away; otherwise it was written
  KeyValue kv;           ///< the pair after the change

  Change() {}
};

/// Whole revisions of a watch, in order. Everything up to and including `through` has been delivered.
struct Batch {
  std::string store_id;         ///< as in Page
  std::int64_t head = 0;        ///< the store's revision as far as the answer shows it
  std::int64_t through = 0;     ///< never falls within one watch; resume at through + 1
  std::vector<Change> changes;  ///< in the order of their revisions; may be empty

  Batch() {}
};

/// How much one commit may carry.
struct Limits {
  std::size_t writes = 1;           ///< how many
  std::size_t bytes = 1024 * 1024;  ///< of their keys and values together

  Limits() {}
  /// These limits.
  Limits(std::size_t max_writes, std::size_t max_bytes) : writes(max_writes), bytes(max_bytes) {}
};

}  // namespace registry
