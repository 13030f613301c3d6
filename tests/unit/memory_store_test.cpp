// MemoryStore: the contracts of a Store, and what is its own: the history's bound, the hooks, the snapshot
// file.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <utility>

#include "registry/store/memory_store.hpp"
#include "registry/store/memory_table.hpp"
#include "rig/seed.hpp"
#include "rig/store_conformance.hpp"

using namespace registry;

TEST_CASE("MemoryStore does what a store must do") {
  rig::StoreFixture fixture;
  fixture.make = [](asio::io_context& io) {
    MemoryStoreConfig config;
    config.min_ttl = std::chrono::seconds(1);
    return std::make_unique<MemoryStore>(io.get_executor(), config);
  };
  fixture.compact = [](Store& store, std::int64_t revision) {
    static_cast<MemoryStore&>(store).compact(revision);
  };
  fixture.disconnect = [](Store& store) { static_cast<MemoryStore&>(store).disconnect(); };
  rig::store_conformance(fixture);
}

namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

/// A folder that is gone afterwards.
struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "registry-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  std::string file() const { return (path / "store.json").string(); }
  fs::path path;
};

std::string content(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

MemoryStoreConfig saved_in(const Folder& folder) {
  MemoryStoreConfig config;
  config.snapshot_file = folder.file();
  config.snapshot_interval = 1ms;
  return config;
}

asio::awaitable<std::int64_t> create(std::shared_ptr<StoreBackend> store, std::string key,
                                     std::int64_t lease = 0) {
  std::vector<Write> writes(1, Write(key, "1", lease, 0));
  const Committed done = co_await store->commit(std::move(writes));
  co_return done.revision;
}

template <class T>
std::error_code failure(asio::io_context& io, asio::awaitable<T> work) {
  return rig::run(io, rig::code_of(std::move(work)));
}

KeyRange everything() { return KeyRange("/", "0"); }

Page list_at(asio::io_context& io, Store& store, std::int64_t revision = 0) {
  ListQuery query(everything());
  query.revision = revision;
  return rig::run(io, store.backend()->list(query));
}

std::error_code list_failure(asio::io_context& io, Store& store, std::int64_t revision = 0) {
  ListQuery query(everything());
  query.revision = revision;
  return failure(io, store.backend()->list(query));
}

}  // namespace

TEST_CASE("memory store: an empty one is at revision 1, as etcd; every fresh one is another store") {
  asio::io_context io;
  MemoryStore one(io.get_executor());
  MemoryStore other(io.get_executor());
  CHECK(list_at(io, one).revision == 1);
  CHECK(list_at(io, one).store_id != list_at(io, other).store_id);
  CHECK(rig::run(io, create(one.backend(), "/k")) == 2);
}

TEST_CASE("memory store: the history is bounded; who falls behind it is told") {
  asio::io_context io;
  MemoryStoreConfig config;
  config.max_history = 10;
  MemoryStore store(io.get_executor(), config);
  auto slow = store.backend()->watch(KeyRange("/busy"), 1);
  auto quiet = store.backend()->watch(KeyRange("/quiet"), 2);
  rig::run(io, slow.next());
  rig::run(io, quiet.next());
  for (int i = 0; i < 100; ++i) store.put("/busy", std::to_string(i));
  CHECK(failure(io, slow.next()) == errc::compacted);
  CHECK(slow.ended());
  CHECK(list_failure(io, store, 50) == errc::compacted);
  CHECK(list_at(io, store, 95).items.at(0).value == "93");
  // Nothing happened to what this one watches: it has not fallen behind.
  const std::int64_t revision = store.put("/quiet", "1");
  const auto batch = rig::run(io, quiet.next());
  REQUIRE(batch);
  CHECK(batch->through == revision);
  CHECK(batch->changes.size() == 1);
}

TEST_CASE("memory store: a long way behind, revisions come folded in few batches") {
  asio::io_context io;
  MemoryStore store(io.get_executor());
  for (int i = 0; i < 2500; ++i) store.put("/k", std::to_string(i));
  auto watch = store.backend()->watch(everything(), 1);
  rig::run(io, watch.next());
  int batches = 0;
  std::size_t changes = 0;
  while (changes < 2500) {
    changes += rig::run(io, watch.next())->changes.size();
    ++batches;
  }
  CHECK(changes == 2500);
  CHECK(batches <= 3);
}

TEST_CASE("memory store: lists of the past agree with what was there, page by page") {
  std::mt19937_64 random(rig::test_seed("memory store"));
  detail::MemoryTable table(2s, 1000, Limits(127, 1 << 20));
  std::map<std::int64_t, std::map<std::string, KeyValue>> truth;
  std::map<std::string, KeyValue> state;
  for (int round = 0; round < 400; ++round) {
    truth[table.revision()] = state;
    const std::string key = "/" + std::to_string(random() % 20);
    if (random() % 3 == 0) {
      if (table.erase_unguarded(key)) state.erase(key);
    } else {
      table.put_unguarded(key, std::to_string(round), 0);
      state[key] = *table.pairs().at(key);
    }
    const auto at = truth.lower_bound(1 + static_cast<std::int64_t>(random()) % table.revision());
    if (at == truth.end()) continue;
    ListQuery query(everything());
    query.revision = at->first;
    query.limit = 1 + random() % 7;
    std::map<std::string, KeyValue> seen;
    while (true) {
      const Page page = table.list(query);
      for (const auto& item : page.items) seen[item.key] = item;
      if (!page.more) break;
      query.after = page.items.back().key;
    }
    REQUIRE(seen == at->second);
  }
}

TEST_CASE("memory store: short TTLs are lengthened as by etcd") {
  asio::io_context io;
  MemoryStore store(io.get_executor());
  for (const auto asked : {-5s, 0s, 1s, 2s}) CHECK(rig::run(io, store.backend()->grant(0, asked)).ttl == 2s);
  CHECK(rig::run(io, store.backend()->grant(-7, 3s)).ttl == 3s);
}

TEST_CASE("memory store: leases run out even when nobody runs the store's executor") {
  asio::io_context idle, io;
  MemoryStoreConfig config;
  config.min_ttl = 1s;
  MemoryStore store(idle.get_executor(), config);
  const Lease lease = rig::run(io, store.backend()->grant(0, 1s));
  rig::run(io, create(store.backend(), "/k", lease.id));
  const std::int64_t revision = list_at(io, store).revision;
  Page page = list_at(io, store);
  const auto deadline = std::chrono::steady_clock::now() + rig::patience;
  while (!page.items.empty() && std::chrono::steady_clock::now() < deadline) page = list_at(io, store);
  CHECK(page.items.empty());
  CHECK(page.revision == revision + 1);
  CHECK(rig::run(io, store.backend()->renew(lease.id, 1s)) == 0s);
}

TEST_CASE("memory store: a context has nothing to do once the last lease is gone") {
  asio::io_context io;
  MemoryStore store(io.get_executor());
  const Lease one = rig::run(io, store.backend()->grant(0, 1000s));
  const Lease two = rig::run(io, store.backend()->grant(0, 2000s));
  io.restart();
  CHECK(io.run_for(20ms) == 0);
  CHECK_FALSE(io.stopped());
  CHECK(store.expire(one.id));
  CHECK_FALSE(store.expire(one.id));
  CHECK(store.expire(two.id));
  io.restart();
  io.run_for(5s);  // less than the keeper ever sleeps
  CHECK(io.stopped());
}

TEST_CASE("memory store: out of reach, every call and watch says so, and others go on") {
  asio::io_context io;
  MemoryStore store(io.get_executor());
  const Lease lease = rig::run(io, store.backend()->grant(0, 60s));
  auto watch = store.backend()->watch(everything(), 2);
  rig::run(io, watch.next());
  store.set_unavailable(true);
  CHECK(failure(io, watch.next()) == errc::unavailable);
  CHECK(list_failure(io, store) == errc::unavailable);
  CHECK(failure(io, create(store.backend(), "/k")) == errc::unavailable);
  CHECK(failure(io, store.backend()->grant(0, 5s)) == errc::unavailable);
  CHECK(failure(io, store.backend()->renew(lease.id, 5s)) == errc::unavailable);
  CHECK(failure(io, store.backend()->revoke(lease.id)) == errc::unavailable);
  auto fresh = store.backend()->watch(everything(), 2);
  CHECK(failure(io, fresh.next()) == errc::unavailable);
  store.put("/theirs", "1", lease.id);
  CHECK(store.erase("/theirs"));
  CHECK_FALSE(store.erase("/theirs"));
  store.set_unavailable(false);
  auto again = store.backend()->watch(everything(), 2);
  rig::run(io, again.next());
  CHECK(rig::run(io, again.next())->changes.size() == 2);
  CHECK_THROWS_AS(store.put("/k", "1", 4711), std::system_error);
}

TEST_CASE("memory store: bad settings are refused by name") {
  asio::io_context io;
  const auto refused = [&](auto change) {
    MemoryStoreConfig config;
    change(config);
    try {
      MemoryStore store(io.get_executor(), config);
    } catch (const std::system_error& error) {
      CHECK(error.code() == errc::invalid_argument);
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(refused([](auto& config) { config.min_ttl = 0s; }).find("min_ttl") == 0);
  CHECK(refused([](auto& config) { config.max_history = 0; }).find("max_history") == 0);
  CHECK(refused([](auto& config) { config.limits.writes = 0; }).find("limits") == 0);
  CHECK(refused([](auto& config) { config.snapshot_interval = -1ms; }).find("snapshot_interval") == 0);
}

TEST_CASE("memory store on threads: destroyed in the middle of its work, everything ends") {
  asio::thread_pool pool(2);
  std::atomic<int> ended = 0;
  auto work = [](std::shared_ptr<StoreBackend> store, std::atomic<int>& ends) -> asio::awaitable<void> {
    try {
      for (int i = 0;; ++i) {
        const Lease lease = co_await store->grant(0, 60s);
        co_await create(store, "/" + std::to_string(lease.id), lease.id);
        if (i % 2 == 0) co_await store->revoke(lease.id);
      }
    } catch (const std::system_error& error) {
      if (error.code() == errc::closed) ++ends;
    }
  };
  auto follow = [](std::shared_ptr<StoreBackend> store, std::atomic<int>& ends) -> asio::awaitable<void> {
    const std::error_code code = co_await rig::conformance::end_of(store->watch(everything(), 1));
    if (code == errc::closed || code == errc::compacted) ++ends;
  };
  for (int round = 0; round < 20; ++round) {
    ended = 0;
    MemoryStoreConfig config;
    config.max_history = 50;
    auto store = std::make_unique<MemoryStore>(pool.get_executor(), config);
    for (int i = 0; i < 3; ++i) {
      asio::co_spawn(asio::make_strand(pool), work(store->backend(), ended), asio::detached);
      asio::co_spawn(asio::make_strand(pool), follow(store->backend(), ended), asio::detached);
    }
    for (int i = 0; i < 20 * round; ++i) store->put("/k", "1");
    store.reset();
    rig::run(pool, rig::until([&] { return ended == 6; }));
  }
  CHECK(ended == 6);
}

TEST_CASE("snapshot file: pairs, leases and the revision survive; the history does not") {
  const Folder folder;
  const std::string bytes("\0\xff\"\n\xc3", 5);
  asio::io_context io;
  Page before;
  {
    MemoryStore store(io.get_executor(), saved_in(folder));
    rig::run(io, store.backend()->grant(77, 30s));
    store.put("/plain", "v\u00e4lue");
    store.put("/bytes\xfe", bytes, 77);
    store.put("/plain", "2");
    store.erase("/nothing");
    store.save();
    before = list_at(io, store);
    CHECK_FALSE(store.save_error());
  }
  MemoryStore store(io.get_executor(), saved_in(folder));
  const Page after = list_at(io, store);
  CHECK(after.store_id == before.store_id);
  CHECK(after.revision == before.revision);
  CHECK(after.items == before.items);
  CHECK(after.items.at(0).value == bytes);
  CHECK(list_failure(io, store, after.revision - 1) == errc::compacted);
  CHECK(list_at(io, store, after.revision).items == before.items);
  auto gap = store.backend()->watch(everything(), after.revision);
  CHECK(failure(io, gap.next()) == errc::compacted);
  auto watch = store.backend()->watch(everything(), after.revision + 1);
  CHECK(rig::run(io, watch.next())->head == after.revision);
  CHECK(rig::run(io, store.backend()->renew(77, 1s)) == 30s);
  CHECK(store.expire(77));
  const auto batch = rig::run(io, watch.next());
  REQUIRE(batch->changes.size() == 1);
  CHECK(batch->changes[0].kv.key == "/bytes\xfe");
  CHECK(batch->changes[0].deleted);
  CHECK(batch->through == after.revision + 1);
}

TEST_CASE("snapshot file: leases of a loaded file run out") {
  const Folder folder;
  asio::io_context io;
  MemoryStoreConfig config = saved_in(folder);
  config.min_ttl = 1s;
  std::int64_t revision = 0;
  {
    MemoryStore store(io.get_executor(), config);
    rig::run(io, store.backend()->grant(77, 1s));
    revision = store.put("/k", "1", 77);
    store.save();
  }
  // Nothing but a watch touches this one: it must look after its leases by itself.
  MemoryStore store(io.get_executor(), config);
  auto watch = store.backend()->watch(everything(), revision + 1);
  rig::run(io, watch.next());
  CHECK(rig::run(io, watch.next())->changes.at(0).deleted);
}

TEST_CASE("snapshot file: written by itself after a change, whatever a crash left beside it") {
  const Folder folder;
  asio::io_context io;
  std::ofstream(folder.file() + ".tmp") << "half a fi";
  MemoryStore store(io.get_executor(), saved_in(folder));
  for (const std::string value : {"first", "second"}) {
    store.put("/k", value);
    rig::run(io, rig::until([&] { return content(folder.file()).find(value) != std::string::npos; }));
  }
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);
  const MemoryStore again(io.get_executor(), saved_in(folder));
}

TEST_CASE("snapshot file: a failed save says so and is tried again") {
  const Folder folder;
  asio::io_context io;
  MemoryStoreConfig config = saved_in(folder);
  const fs::path missing = folder.path / "missing";
  config.snapshot_file = (missing / "store.json").string();
  MemoryStore store(io.get_executor(), config);
  store.put("/k", "1");
  CHECK_THROWS_AS(store.save(), std::system_error);
  CHECK(store.save_error() == std::errc::no_such_file_or_directory);
  fs::create_directory(missing);
  rig::run(io, rig::until([&] { return fs::exists(config.snapshot_file) && !store.save_error(); }));
}

TEST_CASE("snapshot file: a bad one is refused with its name and place, and left as it is") {
  const std::string head = R"({"format":"registry-memory-store-1","store_id":"7","revision":5,)";
  const std::string pair = R"("key":"/k","value":"","create_revision":2,"mod_revision":3,"lease":0})";
  const std::pair<std::string, std::string> cases[] = {
      {"", "byte 0"},
      {"{\"format\":", "incomplete"},
      {"[1,]", "byte 3"},
      {"[]", "document: expected an object"},
      {"{} {}", "byte 3"},
      {"{}", "format: is missing"},
      {R"({"format":"other"})", "format: is not"},
      {R"({"format":"registry-memory-store-1","store_id":7})", "store_id: expected a string"},
      {R"({"format":"registry-memory-store-1","store_id":"7","revision":0})", "revision: 0 is not between"},
      {R"({"format":"registry-memory-store-1","store_id":"7","revision":1.5})",
       "revision: expected a whole number"},
      {head + R"("leases":{}})", "leases: expected a list"},
      {head + R"("leases":[{"id":1,"ttl":5},{"id":1,"ttl":5}]})", "leases[1].id: is 0 or there twice"},
      {head + R"("leases":[{"id":1,"ttl":-5}]})", "leases[0].ttl: -5"},
      {head + R"("leases":[]})", "pairs: is missing"},
      {head + R"("leases":[],"pairs":[7]})", "pairs[0]: expected an object"},
      {head + R"("leases":[],"pairs":[{)" + pair + ",{" + pair + "]}", "pairs[1].key: is out of order"},
      {head + R"("leases":[],"pairs":[{"key":"/k","value_hex":"0g"}]})", "pairs[0].value_hex: expected"},
      {head + R"("leases":[],"pairs":[{"key":"/k","value":"","mod_revision":6}]})",
       "pairs[0].mod_revision: 6"},
      {head + R"("leases":[],"pairs":[{"key":"/k","value":"","mod_revision":3,"create_revision":4}]})",
       "pairs[0].create_revision: 4"},
      {head + R"("leases":[],"pairs":[)" +
           R"({"key":"/k","value":"","mod_revision":3,"create_revision":2,"lease":9}]})",
       "pairs[0].lease: is not among"},
  };
  const Folder folder;
  asio::io_context io;
  for (const auto& [text, complaint] : cases) {
    CAPTURE(text);
    std::ofstream(folder.file(), std::ios::binary | std::ios::trunc) << text;
    std::string message;
    try {
      const MemoryStore store(io.get_executor(), saved_in(folder));
    } catch (const std::system_error& error) {
      CHECK(error.code() == errc::bad_snapshot);
      message = error.what();
    }
    CAPTURE(message);
    CHECK(message.find(folder.file()) != std::string::npos);
    CHECK(message.find(complaint) != std::string::npos);
    CHECK(content(folder.file()) == text);
  }
  fs::remove(folder.file());
  fs::create_directory(folder.file());
  CHECK_THROWS_AS(MemoryStore(io.get_executor(), saved_in(folder)), std::system_error);
}
