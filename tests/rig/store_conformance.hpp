// What every StoreBackend must do, whatever is behind it. Call store_conformance(fixture) in a test case of
// its own: each contract is a subcase. Keys lie under a prefix of their own each time, so the store may be
// shared and used before.
#pragma once

#include <doctest/doctest.h>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/clock.hpp"
#include "registry/model/errors.hpp"
#include "registry/store/store.hpp"
#include "rig/run.hpp"

namespace rig {

/// How the suite gets at a backend. The hooks are called on the thread that runs the context; they must not
/// run it.
struct StoreFixture {
  /// A store that is ready to be used.
  std::function<std::unique_ptr<registry::Store>(asio::io_context&)> make;
  /// Makes a lease run out now. Empty: the suite waits until it does.
  std::function<void(registry::Store&, std::int64_t lease)> expire;
  /// Compacts the history up to this revision.
  std::function<void(registry::Store&, std::int64_t revision)> compact;
  /// Breaks the connections once; optional.
  std::function<void(registry::Store&)> disconnect;
};

/// One store under test.
struct StoreUnderTest {
  explicit StoreUnderTest(const StoreFixture& with, asio::io_context& io)
      : fixture(with), store(with.make(io)), backend(store->backend()) {}

  std::string key(const std::string& name) const { return prefix + name; }
  registry::KeyRange range() const {
    return registry::KeyRange(prefix, prefix.substr(0, prefix.size() - 1) + "0");
  }

  const StoreFixture& fixture;
  std::unique_ptr<registry::Store> store;
  std::shared_ptr<registry::StoreBackend> backend;
  std::string prefix = "/conformance/" + std::to_string(registry::detail::Random().id()) + "/";
};

namespace conformance {

using namespace registry;
using namespace std::chrono_literals;
using Task = asio::awaitable<void>;
using Rig = StoreUnderTest&;

inline asio::awaitable<Written> write(Rig rig, std::string name, std::optional<std::string> value,
                                      std::int64_t lease = 0, std::int64_t expected = 0) {
  std::vector<Write> writes(1, Write(rig.key(name), std::move(value), lease, expected));
  Committed done = co_await rig.backend->commit(std::move(writes));
  // The revision of an applied write, for the caller's next guard.
  Written result = std::move(done.results.at(0));
  if (result.applied) result.found.emplace().mod_revision = done.revision;
  co_return result;
}

/// Writes under the right guard; the revision.
inline asio::awaitable<std::int64_t> force(Rig rig, std::string name, std::optional<std::string> value,
                                           std::int64_t lease = 0) {
  Written done = co_await write(rig, name, value, lease);
  if (!done.applied && done.found) {
    const std::int64_t seen = done.found->mod_revision;
    done = co_await write(rig, name, value, lease, seen);
  }
  REQUIRE(done.applied);
  co_return done.found->mod_revision;
}

inline asio::awaitable<Page> all(Rig rig, std::int64_t revision = 0) {
  ListQuery query(rig.range());
  query.revision = revision;
  return rig.backend->list(std::move(query));
}

inline asio::awaitable<std::string> texts(Rig rig, std::int64_t revision = 0) {
  const Page page = co_await all(rig, revision);
  std::string out;
  for (const auto& item : page.items) out += item.key.substr(rig.prefix.size()) + "=" + item.value + ";";
  co_return out;
}

/// "name=value;" for each put, "-name;" for each delete.
inline std::string shown(Rig rig, const Batch& batch) {
  std::string out;
  for (const auto& change : batch.changes) {
    const std::string name = change.kv.key.substr(rig.prefix.size());
    out += (change.deleted ? "-" + name : name + "=" + change.kv.value) + ";";
  }
  return out;
}

/// The next batch that holds a change.
inline asio::awaitable<Batch> next_changes(Generator<Batch>& watch) {
  while (true) {
    std::optional<Batch> batch = co_await watch.next();
    if (!batch) throw std::runtime_error("the watch ended");
    if (!batch->changes.empty()) co_return *std::move(batch);
  }
}

inline Task drain(Generator<Batch>& watch) {
  while (const auto batch = co_await watch.next()) continue;
}

/// How a watch ends, whatever it delivers before.
inline asio::awaitable<std::error_code> end_of(Generator<Batch> watch) {
  try {
    while (const auto batch = co_await watch.next()) continue;
  } catch (const std::system_error& error) {
    co_return error.code();
  }
  co_return std::error_code();
}

// ---- lists ----

inline Task lists(Rig rig) {
  CHECK(co_await texts(rig) == "");
  const std::string bytes("\0\xff\n\"", 4);
  co_await force(rig, "b", bytes);
  co_await force(rig, "a", "");
  const std::int64_t last = co_await force(rig, "c", "3");
  const Page page = co_await all(rig);
  REQUIRE(page.items.size() == 3);
  CHECK(page.revision >= last);
  CHECK_FALSE(page.more);
  CHECK_FALSE(page.store_id.empty());
  CHECK(page.items[0].key == rig.key("a"));
  CHECK(page.items[1].value == bytes);
  CHECK(page.items[2].mod_revision == last);
  CHECK(page.items[2].create_revision == last);

  const std::int64_t updated = co_await force(rig, "c", "4");
  ListQuery one{KeyRange(rig.key("c"))};
  const Page single = co_await rig.backend->list(one);
  REQUIRE(single.items.size() == 1);
  CHECK(single.items[0].create_revision == last);
  CHECK(single.items[0].mod_revision == updated);
  CHECK(single.store_id == page.store_id);

  one.keys_only = true;
  const Page names = co_await rig.backend->list(one);
  REQUIRE(names.items.size() == 1);
  CHECK(names.items[0].value.empty());
  CHECK(names.items[0].mod_revision == updated);
}

inline Task lists_in_pages(Rig rig) {
  std::string expected;
  for (char c = 'a'; c < 'a' + 10; ++c) {
    co_await force(rig, std::string(1, c), "1");
    expected += std::string(1, c) + "=1;";
  }
  ListQuery query(rig.range());
  query.limit = 3;
  std::string seen;
  std::int64_t pinned = 0;
  for (int round = 0;; ++round) {
    const Page page = co_await rig.backend->list(query);
    CHECK(page.items.size() <= 3);
    if (round == 0) pinned = page.revision;
    CHECK(page.revision == pinned);
    for (const auto& item : page.items) seen += item.key.substr(rig.prefix.size()) + "=" + item.value + ";";
    if (!page.more) break;
    query.revision = page.revision;
    query.after = page.items.back().key;
    // The world goes on between the pages: changes, deletes and additions on both sides of where we are.
    co_await force(rig, "a" + std::to_string(round), "new");
    co_await force(rig, "i" + std::to_string(round), "new");
    co_await force(rig, std::string(1, static_cast<char>('h' - round)), "2");
    if (round == 1) co_await force(rig, "j", std::nullopt);
  }
  CHECK(seen == expected);
  CHECK(co_await texts(rig, pinned) == expected);
  CHECK(co_await texts(rig) ==
        "a=1;a0=new;a1=new;a2=new;b=1;c=1;d=1;e=1;f=2;g=2;h=2;i=1;i0=new;i1=new;i2=new;");
}

inline Task lists_of_the_future(Rig rig) {
  const Page page = co_await all(rig);
  CHECK(co_await code_of(all(rig, page.revision + 1'000'000)) == errc::future_revision);
}

// ---- commits ----

inline Task guards(Rig rig) {
  const Written created = co_await write(rig, "k", "1");
  REQUIRE(created.applied);
  const std::int64_t first = created.found->mod_revision;

  const Written again = co_await write(rig, "k", "2");
  CHECK_FALSE(again.applied);
  REQUIRE(again.found);
  CHECK(again.found->key == rig.key("k"));
  CHECK(again.found->value == "1");
  CHECK(again.found->mod_revision == first);

  const Written updated = co_await write(rig, "k", "2", 0, first);
  REQUIRE(updated.applied);
  const std::int64_t second = updated.found->mod_revision;
  CHECK(second > first);

  const Written late = co_await write(rig, "k", "3", 0, first);
  CHECK_FALSE(late.applied);
  REQUIRE(late.found);
  CHECK(late.found->value == "2");

  const Written late_delete = co_await write(rig, "k", std::nullopt, 0, first);
  CHECK_FALSE(late_delete.applied);
  REQUIRE(late_delete.found);
  CHECK(late_delete.found->mod_revision == second);
  CHECK((co_await write(rig, "k", std::nullopt, 0, second)).applied);

  const Written absent = co_await write(rig, "k", std::nullopt, 0, second);
  CHECK_FALSE(absent.applied);
  CHECK_FALSE(absent.found);
  const Written never = co_await write(rig, "k", std::nullopt);
  CHECK_FALSE(never.applied);
  CHECK_FALSE(never.found);
  const Written gone = co_await write(rig, "k", "4", 0, second);
  CHECK_FALSE(gone.applied);
  CHECK_FALSE(gone.found);
}

inline Task mixed_commits(Rig rig) {
  const std::int64_t taken = co_await force(rig, "taken", "theirs");
  const std::int64_t doomed = co_await force(rig, "doomed", "x");
  std::vector<Write> writes;
  writes.emplace_back(rig.key("new"), "1", 0, 0);
  writes.emplace_back(rig.key("taken"), "mine", 0, 0);
  writes.emplace_back(rig.key("doomed"), std::nullopt, 0, doomed);
  writes.emplace_back(rig.key("absent"), std::nullopt, 0, 7);
  const Committed done = co_await rig.backend->commit(writes);
  REQUIRE(done.results.size() == 4);
  CHECK(done.results[0].applied);
  CHECK_FALSE(done.results[1].applied);
  REQUIRE(done.results[1].found);
  CHECK(done.results[1].found->mod_revision == taken);
  CHECK(done.results[2].applied);
  CHECK_FALSE(done.results[3].applied);
  CHECK_FALSE(done.results[3].found);
  CHECK(co_await texts(rig) == "new=1;taken=theirs;");
  CHECK((co_await all(rig)).items[0].mod_revision == done.revision);

  auto watch = rig.backend->watch(rig.range(), done.revision);
  const Batch batch = co_await next_changes(watch);
  CHECK(shown(rig, batch) == "new=1;-doomed;");
  for (const auto& change : batch.changes) CHECK(change.kv.mod_revision == done.revision);

  // Wholly refused: nothing has happened.
  const Committed refused = co_await rig.backend->commit(writes);
  for (const auto& result : refused.results) CHECK_FALSE(result.applied);
  CHECK(refused.revision >= done.revision);
  const std::int64_t marker = co_await force(rig, "marker", "m");
  const Batch after = co_await next_changes(watch);
  CHECK(after.changes.front().kv.mod_revision == marker);
}

inline Task bad_commits(Rig rig) {
  std::vector<Write> twice;
  twice.emplace_back(rig.key("k"), "1", 0, 0);
  twice.emplace_back(rig.key("other"), "1", 0, 0);
  twice.emplace_back(rig.key("k"), std::nullopt, 0, 0);
  CHECK(co_await code_of(rig.backend->commit(twice)) == errc::invalid_argument);

  const Limits limits = rig.backend->limits();
  std::vector<Write> many;
  for (std::size_t i = 0; i < limits.writes; ++i) {
    many.emplace_back(rig.key("many" + std::to_string(i)), "x", 0, 0);
  }
  std::vector<Write> too_many = many;
  too_many.emplace_back(rig.key("one more"), "x", 0, 0);
  CHECK(co_await code_of(rig.backend->commit(too_many)) == errc::too_large);
  std::vector<Write> too_big;
  too_big.emplace_back(rig.key("big"), std::string(limits.bytes + 1, 'x'), 0, 0);
  CHECK(co_await code_of(rig.backend->commit(too_big)) == errc::too_large);
  CHECK(co_await texts(rig) == "");

  const Committed most = co_await rig.backend->commit(many);
  const Page page = co_await all(rig);
  CHECK(page.items.size() == limits.writes);
  for (const auto& item : page.items) CHECK(item.mod_revision == most.revision);
}

// ---- leases ----

inline Task grants(Rig rig) {
  const std::int64_t id = registry::detail::Random().id();
  const Lease lease = co_await rig.backend->grant(id, 60s);
  CHECK(lease.id == id);
  CHECK(lease.ttl == 60s);
  CHECK(co_await code_of(rig.backend->grant(id, 60s)) == errc::lease_exists);
  CHECK(co_await rig.backend->renew(id, 5s) == 60s);
  co_await rig.backend->revoke(id);
  CHECK(co_await code_of(rig.backend->revoke(id)) == errc::lease_lost);
  CHECK(co_await rig.backend->renew(id, 5s) == 0s);
  CHECK((co_await rig.backend->grant(id, 60s)).id == id);
  co_await rig.backend->revoke(id);

  const Lease chosen = co_await rig.backend->grant(0, 60s);
  CHECK(chosen.id != 0);
  co_await rig.backend->revoke(chosen.id);

  const Lease shortest = co_await rig.backend->grant(0, 1s);
  CHECK(shortest.ttl >= 1s);
  CHECK(shortest.ttl <= 5s);
  CHECK(co_await rig.backend->renew(shortest.id, 5s) == shortest.ttl);
  CHECK(co_await code_of(rig.backend->grant(0, 9'000'000'001s)) == errc::invalid_argument);
}

inline Task dead_leases(Rig rig) {
  const Lease dead = co_await rig.backend->grant(0, 60s);
  co_await rig.backend->revoke(dead.id);
  std::vector<Write> writes;
  writes.emplace_back(rig.key("a"), "1", 0, 0);
  writes.emplace_back(rig.key("b"), "1", dead.id, 0);
  CHECK(co_await code_of(rig.backend->commit(writes)) == errc::lease_lost);
  CHECK(co_await texts(rig) == "");
  // A write that its guard refuses has no need of its lease.
  const std::int64_t seen = co_await force(rig, "b", "theirs");
  const Committed done = co_await rig.backend->commit(writes);
  CHECK(done.results.at(0).applied);
  CHECK_FALSE(done.results.at(1).applied);
  REQUIRE(done.results.at(1).found);
  CHECK(done.results.at(1).found->mod_revision == seen);
}

inline Task lease_ends(Rig rig, bool by_revoke) {
  const Lease lease = co_await rig.backend->grant(0, 1s);
  const Lease other = co_await rig.backend->grant(0, 60s);
  std::vector<Write> writes;
  for (const char* name : {"a", "b", "c"}) writes.emplace_back(rig.key(name), "1", lease.id, 0);
  writes.emplace_back(rig.key("free"), "1", 0, 0);
  const Committed done = co_await rig.backend->commit(writes);
  CHECK((co_await all(rig)).items.at(0).lease == lease.id);
  // Overwritten under another lease, or under none: the old lease lets go of them.
  std::vector<Write> moved;
  moved.emplace_back(rig.key("b"), "2", other.id, done.revision);
  moved.emplace_back(rig.key("moved"), "2", lease.id, 0);
  const std::int64_t moved_at = (co_await rig.backend->commit(moved)).revision;
  co_await write(rig, "moved", "3", 0, moved_at);
  const std::int64_t from = (co_await all(rig)).revision + 1;
  auto watch = rig.backend->watch(rig.range(), from);
  co_await watch.next();
  if (by_revoke) {
    co_await rig.backend->revoke(lease.id);
  } else if (rig.fixture.expire) {
    rig.fixture.expire(*rig.store, lease.id);
  }
  const Batch batch = co_await next_changes(watch);
  CHECK(shown(rig, batch) == "-a;-c;");
  for (const auto& change : batch.changes) CHECK(change.kv.mod_revision == batch.changes[0].kv.mod_revision);
  CHECK(co_await texts(rig) == "b=2;free=1;moved=3;");
  CHECK(co_await rig.backend->renew(lease.id, 5s) == 0s);
  CHECK(co_await code_of(rig.backend->revoke(lease.id)) == errc::lease_lost);
  co_await rig.backend->revoke(other.id);
  CHECK(shown(rig, co_await next_changes(watch)) == "-b;");
}

inline Task renewals_keep_alive(Rig rig) {
  const Lease lease = co_await rig.backend->grant(0, 1s);
  co_await force(rig, "k", "1", lease.id);
  const auto until = registry::detail::boot_now() + 2 * lease.ttl;
  asio::steady_timer timer(co_await asio::this_coro::executor);
  bool held = true;
  while (held && registry::detail::boot_now() < until) {
    timer.expires_after(lease.ttl / 4);
    co_await timer.async_wait(asio::use_awaitable);
    held = co_await rig.backend->renew(lease.id, 5s) == lease.ttl;
  }
  CHECK(held);
  CHECK(co_await texts(rig) == "k=1;");
  co_await rig.backend->revoke(lease.id);
}

// ---- watches ----

inline Task watch_begins(Rig rig) {
  const std::int64_t first = co_await force(rig, "a", "1");
  const std::int64_t second = co_await force(rig, "a", "2");
  const Page page = co_await all(rig);
  auto watch = rig.backend->watch(rig.range(), page.revision + 1);
  const std::optional<Batch> hello = co_await watch.next();
  REQUIRE(hello);
  CHECK(hello->changes.empty());
  CHECK(hello->store_id == page.store_id);
  CHECK(hello->head >= page.revision);
  CHECK(hello->through <= hello->head);

  // From the past: everything since then, once, in order.
  auto replay = rig.backend->watch(rig.range(), first + 1);
  CHECK(shown(rig, co_await next_changes(replay)) == "a=2;");
  auto both = rig.backend->watch(rig.range(), first);
  std::string seen;
  std::int64_t through = 0;
  while (through < second) {
    const Batch batch = co_await next_changes(both);
    CHECK(batch.through > through);
    through = batch.through;
    seen += shown(rig, batch);
  }
  CHECK(seen == "a=1;a=2;");

  // One key, and what lies beside it.
  auto narrow = rig.backend->watch(KeyRange(rig.key("a")), page.revision + 1);
  co_await force(rig, "aa", "x");
  co_await force(rig, "a", std::nullopt);
  const Batch deleted = co_await next_changes(narrow);
  CHECK(shown(rig, deleted) == "-a;");
  CHECK(deleted.through >= deleted.changes[0].kv.mod_revision);
}

inline Task watch_of_the_future(Rig rig) {
  const std::int64_t now = co_await force(rig, "k", "0");
  auto watch = rig.backend->watch(rig.range(), now + 3);
  const std::optional<Batch> hello = co_await watch.next();
  REQUIRE(hello);
  CHECK(hello->head < now + 3);
  for (int i = 1; i <= 4; ++i) co_await force(rig, "k", std::to_string(i));
  const Batch batch = co_await next_changes(watch);
  CHECK(batch.changes.front().kv.mod_revision >= now + 3);
  CHECK(batch.changes.front().kv.value != "1");
}

inline Task bad_watches(Rig rig) {
  for (const std::int64_t from : {std::int64_t{0}, std::int64_t{-1}}) {
    std::error_code code;
    try {
      auto watch = rig.backend->watch(rig.range(), from);
      co_await watch.next();
    } catch (const std::system_error& error) {
      code = error.code();
    }
    CHECK(code == errc::invalid_argument);
  }
}

inline Task compaction(Rig rig) {
  const std::int64_t first = co_await force(rig, "k", "1");
  co_await force(rig, "k", "2");
  const std::int64_t kept = co_await force(rig, "k", "3");
  const std::int64_t head = (co_await all(rig)).revision;
  auto current = rig.backend->watch(rig.range(), head + 1);
  co_await current.next();
  rig.fixture.compact(*rig.store, kept);
  CHECK(co_await code_of(all(rig, kept - 1)) == errc::compacted);
  CHECK(co_await texts(rig, kept) == "k=3;");
  CHECK(co_await end_of(rig.backend->watch(rig.range(), first)) == errc::compacted);
  auto watch = rig.backend->watch(rig.range(), kept);
  CHECK(shown(rig, co_await next_changes(watch)) == "k=3;");
  co_await force(rig, "k", "4");
  CHECK(shown(rig, co_await next_changes(current)) == "k=4;");
}

inline Task breaks(Rig rig) {
  std::int64_t through = (co_await all(rig)).revision;
  std::string seen;
  for (int round = 0; round < 5; ++round) {
    auto watch = rig.backend->watch(rig.range(), through + 1);
    co_await force(rig, "k", std::to_string(2 * round));
    const Batch batch = co_await next_changes(watch);
    seen += shown(rig, batch);
    through = batch.through;
    rig.fixture.disconnect(*rig.store);
    const std::error_code code = co_await end_of(std::move(watch));
    CHECK(code);
    CHECK(is_retryable(code));
    // The store comes back by itself.
    const auto deadline = std::chrono::steady_clock::now() + patience;
    asio::steady_timer timer(co_await asio::this_coro::executor);
    while (const std::error_code away = co_await code_of(all(rig))) {
      if (std::chrono::steady_clock::now() > deadline) throw TooLate();
      timer.expires_after(20ms);
      co_await timer.async_wait(asio::use_awaitable);
    }
    co_await force(rig, "k", std::to_string(2 * round + 1));
  }
  auto rest = rig.backend->watch(rig.range(), through + 1);
  seen += shown(rig, co_await next_changes(rest));
  CHECK(seen == "k=0;k=1;k=2;k=3;k=4;k=5;k=6;k=7;k=8;k=9;");
}

// ---- concurrent writers and a watch that misses nothing ----

struct WriterNotes {
  std::set<std::pair<std::int64_t, std::string>> applied;  // revision, key
};

inline asio::awaitable<WriterNotes> writer(Rig rig, std::uint64_t seed, int rounds) {
  std::mt19937_64 random(seed);
  WriterNotes notes;
  std::map<std::string, std::int64_t> known;
  for (int round = 0; round < rounds; ++round) {
    std::vector<Write> writes;
    std::set<std::string> used;
    const std::size_t count = 1 + random() % 5;
    while (writes.size() < count) {
      const std::string key = rig.key(std::to_string(random() % 12));
      if (!used.insert(key).second) continue;
      std::optional<std::string> value;
      if (random() % 4 != 0) value = std::to_string(random() % 1000);
      writes.emplace_back(key, std::move(value), 0, known[key]);
    }
    const Committed done = co_await rig.backend->commit(writes);
    for (std::size_t i = 0; i < writes.size(); ++i) {
      const Written& result = done.results.at(i);
      if (result.applied) notes.applied.emplace(done.revision, writes[i].key);
      known[writes[i].key] = result.applied ? (writes[i].value ? done.revision : 0)
                             : result.found ? result.found->mod_revision
                                            : 0;
    }
  }
  co_return notes;
}

struct WatcherNotes {
  std::map<std::string, std::pair<std::string, std::int64_t>> state;
  std::multiset<std::pair<std::int64_t, std::string>> seen;
  std::set<std::string> wrong;
};

/// Follows from what a list showed until the key "end" appears, with a fresh watch after every few batches.
inline asio::awaitable<WatcherNotes> follower(Rig rig, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  WatcherNotes notes;
  const Page page = co_await all(rig);
  for (const auto& item : page.items) notes.state[item.key] = {item.value, item.mod_revision};
  std::int64_t through = page.revision;
  bool ended = false;
  while (!ended) {
    auto watch = rig.backend->watch(rig.range(), through + 1);
    for (std::size_t left = 1 + random() % 8; left > 0 && !ended; --left) {
      const std::optional<Batch> batch = co_await watch.next();
      if (!batch) throw std::runtime_error("the watch ended");
      if (batch->through < through) notes.wrong.insert("through fell");
      std::int64_t revision = through + 1;
      for (const auto& change : batch->changes) {
        if (change.kv.mod_revision < revision) notes.wrong.insert("out of order or again");
        revision = change.kv.mod_revision;
        notes.seen.emplace(revision, change.kv.key);
        if (change.deleted) {
          notes.state.erase(change.kv.key);
        } else {
          notes.state[change.kv.key] = {change.kv.value, revision};
        }
        ended = ended || change.kv.key == rig.key("end");
      }
      // A revision is whole: nothing of it comes in a later batch, so a resume at through + 1 misses nothing.
      if (revision > batch->through && !batch->changes.empty()) notes.wrong.insert("beyond through");
      through = batch->through;
    }
  }
  notes.seen.erase(std::prev(notes.seen.end()));  // "end" itself
  notes.state.erase(rig.key("end"));
  co_return notes;
}

inline void no_gap(const StoreFixture& fixture) {
  const std::uint64_t seed = std::random_device()();
  std::printf("store conformance, concurrent writers: seed %llu\n", static_cast<unsigned long long>(seed));
  CAPTURE(seed);
  asio::io_context io;
  StoreUnderTest rig(fixture, io);
  const std::int64_t before = run(io, all(rig)).revision;
  std::vector<WriterNotes> writers(4);
  std::vector<WatcherNotes> watchers(3);
  std::atomic<int> writing = 4, watching = 3;
  std::atomic<bool> failed = false;
  {
    const Crew crew(io, 2);
    for (std::size_t i = 0; i < watchers.size(); ++i) {
      auto end = [&, i](std::exception_ptr error, WatcherNotes notes) {
        watchers[i] = std::move(notes);
        if (error) failed = true;
        --watching;
      };
      asio::co_spawn(asio::make_strand(io), follower(rig, seed + 100 + i), std::move(end));
    }
    for (std::size_t i = 0; i < writers.size(); ++i) {
      auto end = [&, i](std::exception_ptr error, WriterNotes notes) {
        writers[i] = std::move(notes);
        if (error) failed = true;
        --writing;
      };
      asio::co_spawn(asio::make_strand(io), writer(rig, seed + i, 150), std::move(end));
    }
    run(io, until([&] { return writing == 0; }));
    run(io, force(rig, "end", "1"));
    run(io, until([&] { return watching == 0; }));
  }
  CHECK_FALSE(failed);
  std::set<std::pair<std::int64_t, std::string>> written;
  for (const auto& notes : writers) written.insert(notes.applied.begin(), notes.applied.end());
  CHECK(written.size() > 100);
  std::map<std::string, std::pair<std::string, std::int64_t>> state;
  for (const auto& item : run(io, all(rig)).items) {
    if (item.key != rig.key("end")) state[item.key] = {item.value, item.mod_revision};
  }
  for (const auto& notes : watchers) {
    for (const std::string& complaint : notes.wrong) FAIL_CHECK(complaint);
    CHECK(notes.state == state);
    // Each saw every change behind its list, once.
    REQUIRE_FALSE(notes.seen.empty());
    auto expected = written.begin();
    while (expected != written.end() && expected->first < notes.seen.begin()->first) ++expected;
    CHECK(std::equal(notes.seen.begin(), notes.seen.end(), expected, written.end()));
  }
  // From the very beginning, all of it.
  auto replay = rig.backend->watch(rig.range(), before + 1);
  std::multiset<std::pair<std::int64_t, std::string>> replayed;
  while (replayed.size() <= written.size()) {
    for (const auto& change : run(io, next_changes(replay)).changes) {
      replayed.emplace(change.kv.mod_revision, change.kv.key);
    }
  }
  replayed.erase(std::prev(replayed.end()));
  CHECK(std::equal(replayed.begin(), replayed.end(), written.begin(), written.end()));
}

// ---- ends ----

/// Starts `work` and cancels it at once, when it is in flight.
template <class T>
std::error_code cancelled(asio::io_context& io, asio::awaitable<T> work) {
  struct Flight {
    asio::cancellation_signal cancel;
    std::optional<std::error_code> code;
  };
  const auto flight = std::make_shared<Flight>();
  const auto strand = asio::make_strand(io);
  asio::post(strand, [flight, strand, work = code_of(std::move(work))]() mutable {
    auto end = [flight](std::exception_ptr error, std::error_code code) {
      // Cancelled before its first step, it throws past code_of.
      flight->code = error ? make_error_code(asio::error::operation_aborted) : code;
    };
    asio::co_spawn(strand, std::move(work),
                   asio::bind_cancellation_slot(flight->cancel.slot(), std::move(end)));
    flight->cancel.emit(asio::cancellation_type::terminal);
  });
  run(io, until([&] { return flight->code.has_value(); }));
  return *flight->code;
}

inline void cancellation(const StoreFixture& fixture) {
  asio::io_context io;
  StoreUnderTest rig(fixture, io);
  const std::error_code aborted = asio::error::operation_aborted;
  // A call whose answer is there first returns it.
  const auto aborted_or_done = [aborted](std::error_code code) { return code == aborted || !code; };
  const Lease lease = run(io, rig.backend->grant(0, 60s));
  std::vector<Write> writes(1, Write(rig.key("maybe"), "1", 0, 0));
  CHECK(aborted_or_done(cancelled(io, all(rig))));
  CHECK(aborted_or_done(cancelled(io, rig.backend->commit(writes))));
  CHECK(aborted_or_done(cancelled(io, rig.backend->grant(0, 5s))));
  CHECK(aborted_or_done(cancelled(io, rig.backend->renew(lease.id, 5s))));
  auto watch = rig.backend->watch(rig.range(), run(io, all(rig)).revision + 1);
  run(io, watch.next());
  CHECK(cancelled(io, watch.wait()) == aborted);
  CHECK(cancelled(io, watch.next()) == aborted);
  // Everything goes on.
  run(io, force(rig, "k", "1", lease.id));
  std::string seen;
  while (seen.find("k=1;") == std::string::npos) seen += shown(rig, run(io, next_changes(watch)));
  CHECK(aborted_or_done(cancelled(io, rig.backend->revoke(lease.id))));
  CHECK_NOTHROW(run(io, all(rig)));
}

inline void cancellation_on_threads(const StoreFixture& fixture) {
  asio::io_context io;
  StoreUnderTest rig(fixture, io);
  constexpr int flights = 200;
  std::atomic<int> ended = 0, wrong = 0;
  {
    const Crew crew(io, 2);
    for (int i = 0; i < flights; ++i) {
      const auto strand = asio::make_strand(io);
      const auto cancel = std::make_shared<asio::cancellation_signal>();
      auto end = [&, cancel](std::exception_ptr error) {
        try {
          if (error) std::rethrow_exception(error);
        } catch (const std::system_error& failure) {
          if (failure.code() != asio::error::operation_aborted) ++wrong;
        }
        ++ended;
      };
      auto work = [](Rig on, int number) -> Task {
        co_await force(on, std::to_string(number), "1");
        auto watch = on.backend->watch(on.range(), (co_await all(on)).revision + 1);
        while (const auto batch = co_await watch.next()) continue;
      };
      asio::post(strand, [=, &rig] {
        asio::co_spawn(strand, work(rig, i), asio::bind_cancellation_slot(cancel->slot(), end));
      });
      const auto timer = std::make_shared<asio::steady_timer>(strand, std::chrono::microseconds(10 * i));
      timer->async_wait(
          [cancel, timer](std::error_code) { cancel->emit(asio::cancellation_type::terminal); });
    }
    run(io, until([&] { return ended == flights; }));
  }
  CHECK(wrong == 0);
  CHECK_NOTHROW(run(io, force(rig, "after", "1")));
}

inline Task closes(Rig rig) {
  const Lease lease = co_await rig.backend->grant(0, 60s);
  auto watch = rig.backend->watch(rig.range(), 1'000'000'000'000);
  auto fresh = rig.backend->watch(rig.range(), 1'000'000'000'000);
  co_await watch.next();
  rig.backend->cancel();
  CHECK(co_await code_of(watch.next()) == errc::closed);
  CHECK_FALSE(co_await watch.next());
  CHECK(co_await code_of(fresh.next()) == errc::closed);
  CHECK(co_await code_of(all(rig)) == errc::closed);
  std::vector<Write> writes(1, Write(rig.key("k"), "1", 0, 0));
  CHECK(co_await code_of(rig.backend->commit(writes)) == errc::closed);
  CHECK(co_await code_of(rig.backend->grant(0, 60s)) == errc::closed);
  CHECK(co_await code_of(rig.backend->renew(lease.id, 5s)) == errc::closed);
  CHECK(co_await code_of(rig.backend->revoke(lease.id)) == errc::closed);
  CHECK(co_await end_of(rig.backend->watch(rig.range(), 1)) == errc::closed);
  rig.backend->cancel();
}

/// Everything a store does, in flight on `io`; the ends are counted.
struct InFlight {
  InFlight(asio::io_context& io, Rig rig) : watch(rig.backend->watch(rig.range(), 1'000'000'000'000)) {
    const auto notes = log;
    const auto end = [notes](std::exception_ptr, std::error_code code) { notes->push_back(code); };
    const auto spawn = [&](auto work) { asio::co_spawn(io, code_of(std::move(work)), end); };
    spawn(rig.backend->grant(0, 60s));
    spawn(drain(watch));
    io.poll();
    std::vector<Write> writes(1, Write(rig.key("k"), "1", 0, 0));
    spawn(rig.backend->list(ListQuery(rig.range())));
    spawn(rig.backend->commit(writes));
    spawn(rig.backend->grant(0, 60s));
    spawn(rig.backend->renew(1, 5s));
    spawn(rig.backend->revoke(1));
    asio::co_spawn(io, end_of(rig.backend->watch(rig.range(), 1'000'000'000'000)), end);
  }
  static constexpr std::size_t count = 8;
  std::shared_ptr<std::vector<std::error_code>> log = std::make_shared<std::vector<std::error_code>>();
  Generator<Batch> watch;
};

inline void destruction(const StoreFixture& fixture, int steps, bool context_first) {
  auto io = std::make_unique<asio::io_context>();
  auto rig = std::make_unique<StoreUnderTest>(fixture, *io);
  auto flight = std::make_unique<InFlight>(*io, *rig);
  for (int i = 0; i < steps; ++i) io->poll_one();
  if (context_first) {
    io.reset();
    rig.reset();
    flight.reset();
    return;
  }
  rig.reset();
  run(*io, until([&] { return flight->log->size() == InFlight::count; }));
  std::size_t closed = 0;
  for (const std::error_code& code : *flight->log) {
    closed += code == errc::closed ? 1 : 0;
    const bool cut_off = code == errc::closed || code == asio::error::operation_aborted;
    CHECK((!code || cut_off || code == errc::lease_lost));
  }
  CHECK(closed >= 2);  // the watches at the least
  if (steps % 2 == 0) flight.reset();
  io.reset();
}

}  // namespace conformance

inline void store_conformance(const StoreFixture& fixture) {
  using namespace conformance;
  const auto check = [&fixture](asio::awaitable<void> (*test)(StoreUnderTest&)) {
    asio::io_context io;
    StoreUnderTest rig(fixture, io);
    run(io, test(rig));
  };
  SUBCASE("list: order, revisions, single keys, keys only, any bytes") { check(lists); }
  SUBCASE("list: pages show one revision while the store moves on") { check(lists_in_pages); }
  SUBCASE("list: a revision that is not reached") { check(lists_of_the_future); }
  SUBCASE("commit: guards") { check(guards); }
  SUBCASE("commit: each write judged on its own, all at one revision") { check(mixed_commits); }
  SUBCASE("commit: repeated keys and the limits") { check(bad_commits); }
  SUBCASE("lease: ids, TTLs, renewals and unknown ones") { check(grants); }
  SUBCASE("lease: a dead one fails the whole commit") { check(dead_leases); }
  SUBCASE("lease: revoking deletes what is still attached, at one revision") {
    check([](StoreUnderTest& rig) { return lease_ends(rig, true); });
  }
  SUBCASE("lease: running out deletes what is still attached, at one revision") {
    check([](StoreUnderTest& rig) { return lease_ends(rig, false); });
  }
  SUBCASE("lease: renewed, it lives on") { check(renewals_keep_alive); }
  SUBCASE("watch: first batch, replay, single keys, deletes") { check(watch_begins); }
  SUBCASE("watch: from a revision that is not reached") { check(watch_of_the_future); }
  SUBCASE("watch: revision 0 is refused") { check(bad_watches); }
  SUBCASE("watch: no gap behind a list, nothing twice, with writers and resumes") { no_gap(fixture); }
  if (fixture.compact) {
    SUBCASE("compaction ends lists and watches of the past, and only these") { check(compaction); }
  }
  if (fixture.disconnect) {
    SUBCASE("break: watches end, and resume where they were") { check(breaks); }
  }
  SUBCASE("cancellation: each awaitable, and the store goes on") { cancellation(fixture); }
  SUBCASE("cancellation: against work on other threads") { cancellation_on_threads(fixture); }
  SUBCASE("cancel: everything ends with closed") { check(closes); }
  SUBCASE("destruction: the store first") {
    for (const int steps : {0, 1, 3, 8, 20}) destruction(fixture, steps, false);
  }
  SUBCASE("destruction: the context first") {
    for (const int steps : {0, 1, 3, 8, 20}) destruction(fixture, steps, true);
  }
}

}  // namespace rig
