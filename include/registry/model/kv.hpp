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
  std::string begin;
  std::string end;

  KeyRange() = default;
  explicit KeyRange(std::string key) : begin(std::move(key)) {}
  KeyRange(std::string first, std::string past) : begin(std::move(first)), end(std::move(past)) {}

  bool contains(const std::string& key) const {
    return end.empty() ? key == begin : begin <= key && key < end;
  }
  friend bool operator==(const KeyRange&, const KeyRange&) = default;
};

/// A stored pair. `lease` is 0 for a key that no lease holds.
struct KeyValue {
  std::string key;
  std::string value;
  std::int64_t create_revision = 0;
  std::int64_t mod_revision = 0;
  std::int64_t lease = 0;

  KeyValue() {}
  friend bool operator==(const KeyValue&, const KeyValue&) = default;
};

/// A lease as the store granted it: `ttl` may be longer than what was asked for.
struct Lease {
  std::int64_t id = 0;
  std::chrono::seconds ttl{0};

  Lease() {}
  Lease(std::int64_t lease_id, std::chrono::seconds granted) : id(lease_id), ttl(granted) {}
};

/// One page of a list. Pages after the first repeat the first page's revision and name the last key seen in
/// `after`.
struct ListQuery {
  KeyRange range;
  std::string after;          ///< only keys behind this one; empty: from the start of the range
  std::int64_t revision = 0;  ///< 0: the newest
  std::size_t limit = 0;      ///< 0: everything at once
  bool keys_only = false;     ///< values stay empty
  bool local = false;         ///< may be answered from a replica that lags

  ListQuery() {}
  explicit ListQuery(KeyRange keys) : range(std::move(keys)) {}
};

/// The answer to a ListQuery, ordered by key. `revision` is the one the page was read at.
struct Page {
  std::string store_id;  ///< names the store; another id means another store answers
  std::int64_t revision = 0;
  std::vector<KeyValue> items;
  bool more = false;

  Page() {}
};

/// One guarded write: applied only while the key's mod_revision is `expected` (0: while the key is absent).
struct Write {
  std::string key;
  std::optional<std::string> value;  ///< nullopt: delete
  std::int64_t lease = 0;
  std::int64_t expected = 0;

  Write() {}
  Write(std::string k, std::optional<std::string> v, std::int64_t lease_id, std::int64_t expected_revision)
      : key(std::move(k)), value(std::move(v)), lease(lease_id), expected(expected_revision) {}
};

/// What became of one Write. A refused write reports the pair that stands in its way, if there is one.
struct Written {
  bool applied = false;
  std::optional<KeyValue> found;

  Written() {}
};

/// What became of a commit: one revision for all its writes, one result for each, in order.
struct Committed {
  std::int64_t revision = 0;
  std::vector<Written> results;

  Committed() {}
};

/// One change of a key. A deleted key carries only `key` and `mod_revision`.
struct Change {
  bool deleted = false;
  KeyValue kv;

  Change() {}
};

/// Whole revisions of a watch, in order. Everything up to and including `through` has been delivered.
struct Batch {
  std::string store_id;
  std::int64_t head = 0;     ///< the store's revision as far as the answer shows it
  std::int64_t through = 0;  ///< never falls within one watch; resume at through + 1
  std::vector<Change> changes;

  Batch() {}
};

/// How much one commit may carry.
struct Limits {
  std::size_t writes = 1;
  std::size_t bytes = 1024 * 1024;

  Limits() {}
  Limits(std::size_t max_writes, std::size_t max_bytes) : writes(max_writes), bytes(max_bytes) {}
};

}  // namespace registry
