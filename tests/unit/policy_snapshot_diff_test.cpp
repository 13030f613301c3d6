// The snapshot diff: applying it to what was known gives the list. The property that a peer breaks: a value
// that changed under the same key while nobody watched must arrive.
#include <doctest/doctest.h>

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "registry/model/kv.hpp"
#include "registry/policy/snapshot_diff.hpp"
#include "rig/seed.hpp"

using registry::KnownKey;
using registry::snapshot_diff;
using registry::SnapshotDiff;
using Keys = std::vector<KnownKey>;
using Places = std::vector<std::size_t>;

TEST_CASE("diff: nothing known, nothing listed, nothing changed") {
  const Keys none, two = {{"a", 1}, {"b", 2}};
  CHECK(snapshot_diff(none, none).empty());
  CHECK(snapshot_diff(two, two).empty());
  CHECK(snapshot_diff(none, two).written == Places{0, 1});
  CHECK(snapshot_diff(two, none).removed == Places{0, 1});
}

TEST_CASE("diff: a key rewritten while nobody watched is written, never removed") {
  const Keys known = {{"/s/1", 5}}, listed = {{"/s/1", 9}};
  const SnapshotDiff diff = snapshot_diff(known, listed);
  CHECK(diff.removed.empty());
  CHECK(diff.written == Places{0});
}

TEST_CASE("diff: an older revision than the known one is a change: the store was restored") {
  const Keys known = {{"a", 5}, {"b", 6}}, listed = {{"a", 3}, {"b", 6}};
  CHECK(snapshot_diff(known, listed).written == Places{0});
  // In another store equal revisions prove nothing.
  CHECK(snapshot_diff(known, listed, false).written == Places{0, 1});
  CHECK(snapshot_diff(known, listed, false).removed.empty());
}

TEST_CASE("diff: keys interleave; order is by bytes") {
  const Keys known = {{"a", 1}, {"c", 1}, {"e", 1}, {"\xff", 1}},
             listed = {{"b", 2}, {"c", 1}, {"d", 2}, {"e", 3}};
  const SnapshotDiff diff = snapshot_diff(known, listed);
  CHECK(diff.removed == Places{0, 3});
  CHECK(diff.written == Places{0, 2, 3});
}

TEST_CASE("diff: takes a page of key-values as it is") {
  std::vector<registry::KeyValue> items(2);
  items[0].key = "a", items[0].mod_revision = 1;
  items[1].key = "b", items[1].mod_revision = 2;
  CHECK(snapshot_diff(Keys{{"a", 1}}, items).written == Places{1});
}

TEST_CASE("diff: applied to what was known it gives the list, 1000 random rounds") {
  std::mt19937_64 random(rig::test_seed("diff"));
  const auto pick = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };

  using Store = std::map<std::string, std::pair<std::int64_t, std::string>>;  // key -> revision, value
  const auto keys_of = [](const Store& store) {
    Keys keys;
    for (const auto& [key, written] : store) keys.emplace_back(key, written.first);
    return keys;
  };
  Store store, view;
  std::int64_t revision = 0;
  for (int round = 0; round < 1000; ++round) {
    const bool restored = pick(20) == 0;  // the store goes back in time: old revisions are handed out again
    if (restored) {
      revision = static_cast<std::int64_t>(pick(static_cast<std::size_t>(revision) + 1));
      std::erase_if(store, [revision](const auto& entry) { return entry.second.first > revision; });
    }
    for (std::size_t change = pick(12); change > 0; --change) {
      const std::string key = "/s/" + std::to_string(pick(16));
      if (pick(3) == 0) {
        store.erase(key);
      } else {
        store[key] = {++revision, "address " + std::to_string(random())};
      }
    }
    const Keys known = keys_of(view), listed = keys_of(store);
    const SnapshotDiff diff = snapshot_diff(known, listed, !restored);
    Store next = view;  // the keys in `known` point into `view`
    for (const std::size_t place : diff.removed) REQUIRE(next.erase(std::string(known[place].key)) == 1);
    for (const std::size_t place : diff.written) {
      const std::string key(listed[place].key);
      next[key] = store.at(key);
    }
    REQUIRE(next == store);
    if (!restored) {  // and nothing is said that is not news
      for (const std::size_t place : diff.written) {
        const auto before = view.find(std::string(listed[place].key));
        REQUIRE((before == view.end() || before->second != store.at(before->first)));
      }
    }
    view = std::move(next);
  }
}
