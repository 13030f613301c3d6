// What servers do rarely, or only in some versions, and what no server should do: scripted, with the library
// against it.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <future>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "registry/etcd/backend.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/scripted_etcd.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace rig::script;
using namespace std::chrono_literals;

namespace {

/// The first revision that a follower lacks: it watches from one before, see WatchResume::watch_from.
std::int64_t news_from(const script::pb::WatchCreateRequest& create) { return create.start_revision() + 1; }

using Clock = std::chrono::steady_clock;
using BatchLog = rig::Log<Batch>;

etcd::ConnectorConfig impatient(std::chrono::milliseconds request_timeout) {
  etcd::ConnectorConfig config = connector_config("");
  config.request_timeout = request_timeout;
  return config;
}

RegistryConfig unguarded() {  // the guard would watch, and watches are scripted
  RegistryConfig config = quick_config();
  config.guard_keys = false;
  return config;
}

/// Counts what the library counts.
struct Counters : Metrics {
  void add(const registry::Metric& metric, std::string_view, double amount) noexcept override {
    if (metric.name == "registry_etcd_endpoint_failures_total") endpoint_failures += static_cast<int>(amount);
  }
  std::atomic<int> endpoint_failures = 0;
};

/// A Registry and its Connector on one or two scripted members of one cluster.
struct Scripted {
  explicit Scripted(etcd::ConnectorConfig settings = connector_config(""),
                    RegistryConfig config = quick_config(), bool two = false)
      : second(two ? std::make_unique<ScriptedEtcd>() : nullptr),
        store(pool.get_executor(), aimed(std::move(settings)), observed()),
        reg(store, std::move(config), observer()) {}

  template <class T>
  T run(asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
    return rig::run(pool, std::move(work), limit);
  }

  /// Of two members, the one that the Connector turns to, and the other one.
  std::pair<ScriptedEtcd*, ScriptedEtcd*> in_use() {
    run(store.connect());
    const bool first = server.range.calls() == 1;
    return first ? std::pair(&server, second.get()) : std::pair(second.get(), &server);
  }

  etcd::ConnectorConfig aimed(etcd::ConnectorConfig settings) const {
    settings.endpoints = {server.endpoint()};
    if (second) settings.endpoints.push_back(second->endpoint());
    return settings;
  }
  Observer observed() const {
    struct Printer : Logger {
      explicit Printer(Observer to) : printer(std::move(to)) {}
      void log(LogLevel level, std::string_view text) noexcept override { printer.log(level, text); }
      Observer printer;
    };
    return Observer(std::make_shared<Printer>(observer()), counters);
  }

  std::shared_ptr<Counters> counters = std::make_shared<Counters>();
  ScriptedEtcd server;
  std::unique_ptr<ScriptedEtcd> second;
  asio::thread_pool pool{2};
  etcd::Connector store;
  Registry reg;
};

std::string value_of(const std::string& id, const std::string& version = "v1") {
  return encode(instance("user-service", id, version));
}
pb::Event put_user(const std::string& id, std::int64_t revision, const std::string& version = "v1") {
  return script::put(key_of("user-service", id), revision, value_of(id, version));
}
pb::Event del_user(const std::string& id, std::int64_t revision) {
  return del(key_of("user-service", id), revision);
}

/// "+user-1@11", "-user-1@12", with a '*' behind it when resynced.
std::vector<std::string> seen(const EventLog& log) {
  std::vector<std::string> all;
  for (const auto& event : log.all()) {
    all.push_back((event.type == EventType::Put ? "+" : "-") + event.service.id + "@" +
                  std::to_string(event.revision) + (event.resynced ? "*" : ""));
  }
  return all;
}

/// The changes of all batches: "a@11", "-a@12".
std::vector<std::string> changes(const BatchLog& log) {
  std::vector<std::string> all;
  for (const auto& batch : log.all()) {
    for (const auto& change : batch.changes)
      all.push_back((change.deleted ? "-" : "") + change.kv.key + "@" +
                    std::to_string(change.kv.mod_revision));
  }
  return all;
}

std::vector<std::int64_t> bookmarks(const BatchLog& log) {
  std::vector<std::int64_t> all;
  for (const auto& batch : log.all()) all.push_back(batch.through);
  return all;
}

using Texts = std::vector<std::string>;

template <class T>
std::error_code error_of(const rig::Log<T>& log) {
  try {
    if (log.error()) std::rethrow_exception(log.error());
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

template <class T>
std::string words_of(const rig::Log<T>& log) {
  try {
    if (log.error()) std::rethrow_exception(log.error());
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

bool comes(const std::vector<std::string>& wanted, const std::function<std::vector<std::string>()>& have,
           std::chrono::milliseconds limit = 10s) {
  if (eventually([&] { return have() == wanted; }, limit)) return true;
  for (const auto& each : have()) std::fprintf(stderr, "  has %s\n", each.c_str());
  for (const auto& each : wanted) std::fprintf(stderr, "  wants %s\n", each.c_str());
  return false;
}
bool comes(const EventLog& log, const std::vector<std::string>& wanted,
           std::chrono::milliseconds limit = 10s) {
  return comes(
      wanted, [&log] { return seen(log); }, limit);
}
bool comes(const BatchLog& log, const std::vector<std::string>& wanted,
           std::chrono::milliseconds limit = 10s) {
  return comes(
      wanted, [&log] { return changes(log); }, limit);
}

// A call that nobody answers ends with its timeout: never before, and not much after it.
void check_elapsed(Clock::time_point since, std::chrono::milliseconds timeout) {
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - since);
  CAPTURE(elapsed.count());
  CHECK(elapsed >= timeout - 50ms);
  CHECK(elapsed <= timeout + 2s);  // 50 ms on a machine that is not loaded
}

pb::RangeRequest one_key(const std::string& key) {
  pb::RangeRequest request;
  request.set_key(key);
  return request;
}

}  // namespace

// ---- W11

TEST_CASE(
    "W11: old events, duplicates, progress below next and a header far ahead are filtered, and the bookmark "
    "never falls") {
  Scripted world;
  BatchLog log(world.pool, world.store.watch(KeyRange("a", "b"), 11));
  auto stream = world.server.next_watch_stream();
  const auto create = stream.expect_create();
  CHECK(create.key() == "a");
  CHECK(create.range_end() == "b");
  CHECK(create.start_revision() == 11);
  CHECK(create.fragment());
  CHECK(stream.metadata("hasleader") == "true");
  stream.send(created(0, 10));
  stream.send(events(0, 10, {script::put("a1", 9), script::put("a2", 10)}));     // travels back in time
  stream.send(progress(0, 5));                                                   // below next
  stream.send(progress(0, 10));                                                  // nothing new
  stream.send(events(0, 2511, {script::put("a1", 12), script::put("a2", 13)}));  // a catch-up batch
  stream.send(events(0, 2511, {script::put("a1", 12), script::put("a2", 13)}));  // again
  stream.send(progress(0, 12));
  stream.send(events(0, 2511, {script::put("a2", 13), script::put("a3", 14)}));  // overlaps
  stream.send(progress(0, 20));
  stream.send(progress(-1, 500));                        // of the whole stream: nobody's bookmark
  stream.send(events(0, 500, {script::put("a1", 18)}));  // below the bookmark
  stream.send(events(0, 600, {script::put("a5", 25), del("a1", 26)}));
  stream.end(unavailable());
  REQUIRE(eventually([&] { return log.ended(); }));
  CHECK(error_of(log) == errc::unavailable);
  CHECK(changes(log) == Texts{"a1@12", "a2@13", "a3@14", "a5@25", "-a1@26"});
  CHECK(bookmarks(log) == std::vector<std::int64_t>{10, 13, 14, 20, 26});
}

TEST_CASE("W11: an answer whose events are out of order moves the bookmark to the newest of them") {
  Scripted world;
  BatchLog log(world.pool, world.store.watch(KeyRange("a", "b"), 11));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  stream.send(created(0, 10));
  stream.send(events(0, 14, {script::put("a1", 12), script::put("a2", 13), script::put("a1", 12)}));
  stream.send(events(0, 14, {script::put("a2", 13), script::put("a3", 14)}));
  REQUIRE(eventually([&] { return !log.all().empty() && log.all().back().through >= 14; }));
  const auto all = changes(log);
  CHECK(std::count(all.begin(), all.end(), "a2@13") == 1);
  CHECK(bookmarks(log) == std::vector<std::int64_t>{10, 13, 14});
}

TEST_CASE(
    "W11: a watch resumes at the last mod_revision + 1, whatever the headers said, and repeats nothing") {
  Scripted world;
  world.server.put(key_of("user-service", "user-1"), value_of("user-1"));  // at 11
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 12);
  stream.send(created(0, 11));
  stream.send(events(0, 2511, {put_user("user-2", 12)}));
  stream.send(progress(-1, 900));
  stream.end(unavailable());

  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 13);
  stream.send(created(0, 2511));
  stream.send(events(0, 2511, {put_user("user-1", 10), put_user("user-2", 12)}));  // old ones
  stream.send(events(0, 2511, {put_user("user-2", 12), put_user("user-3", 13)}));  // partly old
  stream.send(progress(0, 40));
  stream.send(progress(0, 30));
  stream.end(unavailable());

  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 41);
  stream.send(created(0, 2511));
  stream.end(unavailable());

  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 41);
  stream.send(created(0, 2511));
  stream.send(events(0, 2511, {put_user("user-3", 39), del_user("user-1", 41)}));
  CHECK(comes(log, {"+user-1@11", "+user-2@12", "+user-3@13", "-user-1@41"}));
  CHECK(world.server.range.calls() == 1);  // none of this needed another list
  world.run(world.reg.close());
}

// ---- fragments

TEST_CASE("fragments: one revision in pieces is one batch, and progress in between is no bookmark") {
  Scripted world;
  BatchLog log(world.pool, world.store.watch(KeyRange("a", "b"), 11));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  stream.send(created(0, 10));
  stream.send(events(0, 11, {script::put("a1", 11), script::put("a2", 11)}, true));
  stream.send(progress(0, 11));
  stream.send(events(0, 11, {script::put("a3", 11)}, true));
  stream.send(events(0, 11, {script::put("a4", 11)}));
  CHECK(comes(log, {"a1@11", "a2@11", "a3@11", "a4@11"}));
  CHECK(bookmarks(log) == std::vector<std::int64_t>{10, 11});
}

TEST_CASE("fragments: an answer that stops halfway is dropped, and delivered whole, once, after the resume") {
  Scripted world;
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 11);
  stream.send(created(0, 10));
  stream.send(events(0, 11, {put_user("user-0", 11)}));
  stream.send(events(0, 14, {put_user("user-1", 12), put_user("user-2", 13), put_user("user-3", 13)}, true));
  stream.end(unavailable());

  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 12);
  CHECK(seen(log) == Texts{"+user-0@11"});
  stream.send(created(0, 14));
  stream.send(events(0, 14, {put_user("user-1", 12), put_user("user-2", 13)}, true));
  stream.end(unavailable());

  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 12);
  stream.send(created(0, 14));
  stream.send(events(0, 14, {put_user("user-1", 12), put_user("user-2", 13)}, true));
  stream.send(events(0, 14, {put_user("user-3", 13), put_user("user-4", 14)}));
  CHECK(comes(log, {"+user-0@11", "+user-1@12", "+user-2@13", "+user-3@13", "+user-4@14"}));
  world.run(world.reg.close());
}

TEST_CASE("fragments: compaction in the middle of an answer: listed again, the partial is not delivered") {
  Scripted world;
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  stream.send(created(0, 10));
  stream.send(events(0, 12, {put_user("user-1", 11), put_user("user-2", 12)}, true));
  world.server.put(key_of("user-service", "user-2"), value_of("user-2"), 20);
  stream.send(compacted(0, 15));
  CHECK(comes(log, {"+user-2@20*"}));
  CHECK(news_from(world.server.next_watch_stream().expect_create()) == 21);
  world.run(world.reg.close());
}

// ---- W12

TEST_CASE(
    "W12: creates that fail among good ones on one stream: only those watches end, answers go by their "
    "order") {
  Scripted world;
  const auto watch = [&](const char* key) {
    return BatchLog(world.pool, world.store.watch(KeyRange(key), 11));
  };
  BatchLog a = watch("a");
  auto stream = world.server.next_watch_stream();
  CHECK(stream.expect_create().key() == "a");
  BatchLog bad_range = watch("b");
  CHECK(stream.expect_create().key() == "b");
  BatchLog c = watch("c");
  CHECK(stream.expect_create().key() == "c");
  BatchLog denied = watch("d");
  CHECK(stream.expect_create().key() == "d");
  BatchLog duplicate = watch("e");
  CHECK(stream.expect_create().key() == "e");
  BatchLog compacted_early = watch("f");
  CHECK(stream.expect_create().key() == "f");
  BatchLog g = watch("g");
  CHECK(stream.expect_create().key() == "g");

  stream.send(created(0, 10));
  stream.send(refused(10, "mvcc: watcher range is empty"));
  stream.send(created(1, 10));
  stream.send(events(0, 11, {script::put("a", 11)}));
  // Old servers refuse with id 0, which is in use.
  stream.send(refused(11, "rpc error: code = PermissionDenied desc = etcdserver: permission denied", 0));
  stream.send(events(1, 12, {script::put("c", 12)}));
  stream.send(refused(12, "mvcc: duplicate watch ID provided on the WatchStream"));
  stream.send(refused(12, "etcdserver: mvcc: required revision has been compacted"));
  stream.send(created(2, 12));
  stream.send(events(2, 13, {script::put("g", 13)}));
  stream.send(events(0, 14, {script::put("a", 14)}));

  CHECK(eventually(
      [&] { return bad_range.ended() && denied.ended() && duplicate.ended() && compacted_early.ended(); }));
  CHECK(error_of(bad_range) == errc::invalid_argument);
  CHECK(error_of(denied) == errc::permission_denied);
  CHECK(contains(words_of(duplicate), "duplicate watch ID"));
  CHECK(error_of(compacted_early) == errc::compacted);
  CHECK(comes(a, {"a@11", "a@14"}));
  CHECK(comes(c, {"c@12"}));
  CHECK(comes(g, {"g@13"}));
  CHECK_FALSE((a.ended() || c.ended() || g.ended()));
  CHECK_FALSE(stream.ended());
  CHECK(world.counters->endpoint_failures == 0);
}

TEST_CASE("W12: a create that fails as compacted by its compact_revision alone is listed again") {
  Scripted world;
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  auto answer = refused(0, "");
  answer.set_compact_revision(15);
  world.server.put(key_of("user-service", "user-1"), value_of("user-1"), 20);
  stream.send(answer);
  CHECK(comes(log, {"+user-1@20*"}, 5s));
  CHECK(news_from(world.server.next_watch_stream().expect_create()) == 21);
  world.run(world.reg.close());
}

TEST_CASE("W12: permission denied among good creates on one stream, by a real etcd") {
  EtcdOptions options;
  options.root_password = "rootpw";
  options.users = {{"svc", "svcpw", "/ok/"}};
  Etcd etcd(options);
  auto config = connector_config(etcd.endpoint());
  config.username = "svc";
  config.password = "svcpw";
  asio::thread_pool pool(2);
  etcd::Connector store(pool.get_executor(), config, observer());
  rig::run(pool, store.connect());
  const auto from = etcd.revision() + 1;
  // The first on the stream is refused: the ids of the good ones begin behind it, at 0.
  std::vector<std::unique_ptr<BatchLog>> logs;
  for (const char* key : {"/no/x", "/ok/a", "/no/y", "/ok/b", "/ok/c"}) {
    logs.push_back(std::make_unique<BatchLog>(pool, store.watch(KeyRange(key), from)));
  }
  logs.push_back(std::make_unique<BatchLog>(pool, store.watch(KeyRange("/ok/z", "/ok/a"), from)));  // empty
  CHECK(eventually([&] { return logs[0]->ended() && logs[2]->ended() && logs[5]->ended(); }));
  CHECK(error_of(*logs[0]) == errc::permission_denied);
  CHECK(error_of(*logs[2]) == errc::permission_denied);
  CHECK(error_of(*logs[5]) == errc::invalid_argument);
  const auto at_a = std::to_string(etcd.put("/ok/a", "1"));
  const auto at_b = std::to_string(etcd.put("/ok/b", "1"));
  etcd.put("/no/x", "1");
  const auto at_c = std::to_string(etcd.put("/ok/c", "1"));
  CHECK(comes(*logs[1], {"/ok/a@" + at_a}));
  CHECK(comes(*logs[3], {"/ok/b@" + at_b}));
  CHECK(comes(*logs[4], {"/ok/c@" + at_c}));
  for (const std::size_t good : {1, 3, 4}) CHECK_FALSE(logs[good]->ended());
  CHECK(etcd.metric("etcd_debugging_mvcc_watch_stream_total") == 1);
}

// ---- what a stream says beside events

TEST_CASE(
    "watch: canceled by compaction, with revision 0 in its header: that watch ends with compacted, others go "
    "on") {
  Scripted world;
  BatchLog slow(world.pool, world.store.watch(KeyRange("a"), 5));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  BatchLog other(world.pool, world.store.watch(KeyRange("b"), 11));
  stream.expect_create();
  stream.send(created(0, 10));
  stream.send(created(1, 10));
  stream.send(compacted(0, 8));
  stream.send(events(1, 11, {script::put("b", 11)}));
  CHECK(eventually([&] { return slow.ended(); }));
  CHECK(error_of(slow) == errc::compacted);
  CHECK(comes(other, {"b@11"}));
  CHECK_FALSE(other.ended());
}

TEST_CASE("watch: compacted while watching: listed again, the difference is marked as resynced") {
  Scripted world;
  world.server.put(key_of("user-service", "user-1"), value_of("user-1"), 10);
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  stream.send(created(0, 10));
  world.server.del(key_of("user-service", "user-1"));
  world.server.put(key_of("user-service", "user-2"), value_of("user-2"), 60);
  stream.send(compacted(0, 50));
  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 61);
  stream.send(created(0, 60));
  stream.send(events(0, 61, {put_user("user-3", 61)}));
  REQUIRE(eventually([&] { return log.size() == 4; }));
  const auto all = seen(log);
  CHECK(all[0] == "+user-1@10");
  CHECK(contains(all[1], "-user-1@"));
  CHECK(all[1].back() == '*');
  CHECK(all[2] == "+user-2@60*");
  CHECK(all[3] == "+user-3@61");
  world.run(world.reg.close());
}

TEST_CASE(
    "watch: events, progress and cancels for ids that nobody has, and a create that nobody sent, are "
    "ignored") {
  Scripted world;
  BatchLog log(world.pool, world.store.watch(KeyRange("a"), 11));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  stream.send(events(0, 11, {script::put("a", 11)}));  // before the create is answered: not its events
  stream.send(canceled(0, "too early"));
  stream.send(created(0, 10));
  stream.send(canceled(42, "etcdserver: permission denied"));
  stream.send(compacted(42, 900));
  stream.send(canceled(-1));
  stream.send(events(42, 900, {script::put("a", 900)}));
  stream.send(events(-1, 900, {script::put("a", 900)}));
  stream.send(progress(42, 900));
  stream.send(progress(-1, 900));
  stream.send(created(9, 900));
  stream.send(events(9, 901, {script::put("a", 901)}));
  stream.send(pb::WatchResponse());  // watch id 0, no revision, nothing
  pb::WatchResponse hollow = events(0, 900, {pb::Event(), script::put("a", 12)});  // the first has no pair
  stream.send(hollow);
  CHECK(comes(log, {"a@12"}));
  CHECK(bookmarks(log) == std::vector<std::int64_t>{10, 12});
  CHECK_FALSE(log.ended());
}

TEST_CASE("watch: an id that is already in use: the watch that had it does not fall silent") {
  Scripted world;
  BatchLog first(world.pool, world.store.watch(KeyRange("a"), 11));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  stream.send(created(3, 10));
  REQUIRE(eventually([&] { return first.size() == 1; }));
  BatchLog second(world.pool, world.store.watch(KeyRange("b"), 11));
  stream.expect_create();
  stream.send(created(3, 10));
  CHECK(eventually([&] { return first.ended(); }, 2s));
  CHECK(error_of(first) == errc::protocol_error);
}

TEST_CASE("watch: created with a revision below the start: the store was restored, it is listed again") {
  Scripted world;
  world.server.put(key_of("user-service", "user-1"), value_of("user-1"), 10);
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 11);
  stream.send(created(0, 10));
  stream.send(events(0, 25, {put_user("user-2", 25)}));
  CHECK(comes(log, {"+user-1@10", "+user-2@25"}));
  SUBCASE("restored") {
    world.server.set_head(10);
    stream.end(unavailable());
    stream = world.server.next_watch_stream();
    CHECK(news_from(stream.expect_create()) == 26);
    stream.send(created(0, 10));
  }
  SUBCASE("another cluster, ahead of us") {
    world.server.set_cluster(8);
    world.server.set_head(30);
    stream.end(unavailable());
    stream = world.server.next_watch_stream();
    CHECK(news_from(stream.expect_create()) == 26);
    stream.send(created(0, 30));
  }
  // user-2 is gone with the time after the backup.
  CHECK(eventually([&] { return log.size() == 3; }));
  CHECK(contains(seen(log).back(), "-user-2@"));
  const auto head = world.server.head();
  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == head + 1);
  stream.send(created(0, head));
  stream.send(events(0, head + 1, {put_user("user-3", head + 1)}));
  CHECK(eventually([&] { return seen(log).back() == "+user-3@" + std::to_string(head + 1); }));
  world.run(world.reg.close());
}

// ---- answers that never come

TEST_CASE(
    "never answered: a create among running watches times out, its endpoint has failed, new watches go to "
    "another stream, running ones go on") {
  Scripted world(impatient(700ms), quick_config(), true);
  const auto [used, other] = world.in_use();
  BatchLog running(world.pool, world.store.watch(KeyRange("a"), 11));
  auto stream = used->next_watch_stream();
  CHECK(stream.expect_create().key() == "a");
  stream.send(created(0, 10));
  REQUIRE(eventually([&] { return running.size() == 1; }));

  const auto sent = Clock::now();
  BatchLog stuck(world.pool, world.store.watch(KeyRange("b"), 11));
  CHECK(stream.expect_create().key() == "b");
  stream.send(events(0, 11, {script::put("a", 11)}));  // a sign of life is no answer
  REQUIRE(eventually([&] { return stuck.ended(); }));
  check_elapsed(sent, 700ms);
  CHECK(error_of(stuck) == errc::timed_out);
  CHECK(world.counters->endpoint_failures == 1);

  BatchLog next(world.pool, world.store.watch(KeyRange("c"), 11));
  // Which member: the one in use is avoided for 50 to 100 ms.
  std::optional<WatchStream> second;
  REQUIRE(eventually([&] {
    for (ScriptedEtcd* member : {used, other}) {
      try {
        second.emplace(member->next_watch_stream(0ms));
        return true;
      } catch (const NotInTime&) {
      }
    }
    return false;
  }));
  CHECK(second->expect_create().key() == "c");
  second->send(created(0, 12));
  second->send(events(0, 12, {script::put("c", 12)}));
  CHECK(comes(next, {"c@12"}));

  stream.send(events(0, 13, {script::put("a", 13)}));
  CHECK(comes(running, {"a@11", "a@13"}));
  // The answer comes after all: the server is told that nobody wants this watch.
  stream.send(created(1, 13));
  stream.send(events(1, 14, {script::put("b", 14)}));
  CHECK(stream.expect_cancel() == 1);
  stream.send(events(0, 15, {script::put("a", 15)}));
  CHECK(comes(running, {"a@11", "a@13", "a@15"}));
  CHECK_FALSE((running.ended() || next.ended() || stream.ended()));
}

TEST_CASE(
    "never answered: the create of a watch that is followed is tried again elsewhere, from the same "
    "revision") {
  Scripted world(impatient(600ms), quick_config(), true);
  const auto [used, other] = world.in_use();
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto silent = used->next_watch_stream();
  CHECK(news_from(silent.expect_create()) == 11);
  // With another member at hand it is not the silent one that is asked again first.
  auto stream = other->next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 11);
  stream.send(created(0, 12));
  stream.send(events(0, 12, {put_user("user-1", 11), put_user("user-2", 12)}));
  CHECK(comes(log, {"+user-1@11", "+user-2@12"}));
  CHECK(eventually([&] { return silent.ended(); }));  // left, not leaked
  world.run(world.reg.close());
}

TEST_CASE(
    "never answered: a read times out, a write is of unknown outcome and is sent once, within "
    "request_timeout") {
  Scripted world(impatient(600ms));
  world.run(world.store.connect());
  std::error_code code;
  auto since = Clock::now();
  world.server.range.ignore_next();
  code = world.run(code_of(world.store.range(one_key("a"))));
  CHECK(code == errc::timed_out);
  check_elapsed(since, 600ms);

  pb::PutRequest put;
  put.set_key("a");
  since = Clock::now();
  world.server.puts.ignore_next();
  code = world.run(code_of(world.store.put(put)));
  CHECK(code == errc::outcome_unknown);
  check_elapsed(since, 600ms);
  CHECK(world.server.puts.calls() == 1);
  // Time for a second try is left, but the first may have been applied.
  world.server.puts.fail_next(unavailable("Socket closed"));
  code = world.run(code_of(world.store.put(put)));
  CHECK(code == errc::outcome_unknown);
  CHECK(world.server.puts.calls() == 2);

  std::vector<Write> writes;
  writes.emplace_back("b", "v", 0, 0);
  since = Clock::now();
  world.server.txn.lose_next();
  code = world.run(code_of(world.store.backend()->commit(writes)));
  CHECK(code == errc::outcome_unknown);
  check_elapsed(since, 600ms);
  CHECK(world.server.txn.calls() == 1);

  since = Clock::now();
  world.server.grant.ignore_next();
  code = world.run(code_of(world.store.backend()->grant(5, 10s)));
  CHECK(code == errc::outcome_unknown);
  check_elapsed(since, 600ms);
  CHECK(world.server.grant.calls() == 1);
  CHECK(world.run(world.store.range(one_key("b"))).kvs_size() == 1);
}

TEST_CASE("never answered: a read goes to the other member while there is time") {
  Scripted world(impatient(2s), quick_config(), true);
  const auto [used, other] = world.in_use();
  used->range.ignore_all();
  const auto since = Clock::now();
  CHECK_FALSE(world.run(code_of(world.store.range(one_key("a")))));
  CHECK(other->range.calls() == 1);
  CHECK(Clock::now() - since < 2s);  // half of request_timeout goes to the silent one
  CHECK(world.counters->endpoint_failures == 1);
}

TEST_CASE("never answered: a second try: the error tells what the first one has met") {
  Scripted world(impatient(1s));
  world.server.range.fail_next(unavailable());
  world.server.range.ignore_all();
  const auto since = Clock::now();
  const std::string text = world.run(text_of(world.store.range(one_key("a"))));
  check_elapsed(since, 1s);
  CHECK(world.server.range.calls() == 2);
  CAPTURE(text);
  CHECK(contains(text, "etcd " + world.server.endpoint() + " (no TLS): Range: "));
  CHECK(contains(text, "the script says so"));
  CHECK(contains(text, ", then no answer in time"));
  // Without a reason, that is all there is to tell.
  CHECK_FALSE(contains(world.run(text_of(world.store.range(one_key("a")))), "then no answer"));
}

TEST_CASE("never answered: the answer to a registration's write is lost: one key, ours, on its lease") {
  Scripted world(impatient(500ms), unguarded());
  world.server.txn.lose_next();
  world.server.grant.lose_next();
  const auto registration = world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  const auto stored = world.server.entry(key_of("user-service", "user-1"));
  REQUIRE(stored);
  CHECK(stored->version() == 1);
  CHECK(stored->lease() == registration.lease);
  CHECK(world.server.leases() == std::vector<std::int64_t>{registration.lease});
  world.run(world.reg.close());
  CHECK_FALSE(world.server.entry(key_of("user-service", "user-1")));
}

TEST_CASE("never answered: one renewal: the next one saves the lease") {
  Scripted world(connector_config(""), unguarded());
  RegistrationLog states(world.pool, world.reg.registration_events());
  world.server.script_renewals();
  const auto lease = world.run(world.reg.register_instance(instance("user-service", "user-1"), 3s)).lease;
  auto silent = world.server.next_renewal();
  CHECK(silent.expect().id() == lease);
  auto renewal = world.server.next_renewal();  // before the lease is over: 1 s later
  CHECK(renewal.expect().id() == lease);
  renewal.send(renewed(lease, 3));
  CHECK(eventually([&] { return silent.ended(); }));
  world.server.script_renewals(false);
  auto after = Clock::now();
  CHECK(
      holds_for(3s, [&] { return !has_state(states, RegistrationState::Lost); }));  // a TTL from its granting
  CHECK(Clock::now() - after >= 3s);
  CHECK(world.server.grant.calls() == 1);
  world.run(world.reg.close());
}

TEST_CASE(
    "never answered: no renewal at all: lost before the TTL is over, and registered again under a new "
    "lease") {
  Scripted world(connector_config(""), unguarded());
  RegistrationLog states(world.pool, world.reg.registration_events());
  world.server.script_renewals();
  const auto since = Clock::now();
  const auto lease = world.run(world.reg.register_instance(instance("user-service", "user-1"), 3s)).lease;
  REQUIRE(eventually([&] { return has_state(states, RegistrationState::Lost); }));
  const auto elapsed = Clock::now() - since;
  CHECK(elapsed >= 2s);
  CHECK(elapsed <= 3s + 2s);  // less than 3 s after the grant was sent
  world.server.script_renewals(false);
  CHECK(eventually([&] { return has_state(states, RegistrationState::Restored); }));
  const auto stored = world.server.entry(key_of("user-service", "user-1"));
  REQUIRE(stored);
  CHECK(stored->lease() != lease);
  CHECK(world.server.grant.calls() == 2);
  world.run(world.reg.close());
}

TEST_CASE(
    "never answered: Authenticate: callers time out by their own deadline, and the next one gets its turn") {
  auto config = impatient(800ms);
  config.username = "svc";
  config.password = "svcpw";
  Scripted world(config);
  const auto give_token = [](const pb::AuthenticateRequest&, pb::AuthenticateResponse& response) {
    response.set_token("token.1");
    return grpc::Status::OK;
  };
  world.server.authenticate.ignore_next();
  world.server.authenticate.answer_next(give_token);

  std::vector<Write> writes;
  writes.emplace_back("b", "v", 0, 0);
  const auto since = Clock::now();
  auto first = std::async(std::launch::async, [&] {
    const auto code = world.run(code_of(world.store.backend()->commit(writes)));
    return std::pair(code, Clock::now() - since);
  });
  REQUIRE(eventually([&] { return world.server.authenticate.calls() == 1; }));
  CHECK(holds_for(300ms, [&] { return world.server.authenticate.calls() == 1; }));
  // Waits for the first one's Authenticate, then sends one of its own.
  const auto second = world.run(code_of(world.store.range(one_key("a"))));
  CHECK_FALSE(second);
  const auto [code, elapsed] = first.get();
  CHECK(code == errc::timed_out);  // not sent, so nothing is unknown
  CHECK(world.server.txn.calls() == 0);
  CHECK(elapsed >= 750ms);
  CHECK(elapsed <= 800ms + 2s);
  CHECK(world.server.authenticate.calls() == 2);
}

TEST_CASE(
    "never answered: Authenticate for a watch: it ends with a timeout; a cancelled caller gives its turn "
    "on") {
  auto config = impatient(800ms);
  config.username = "svc";
  config.password = "svcpw";
  Scripted world(config);
  world.server.authenticate.ignore_all();
  const auto since = Clock::now();
  {
    BatchLog log(world.pool, world.store.watch(KeyRange("a"), 11));
    REQUIRE(eventually([&] { return log.ended(); }));
    check_elapsed(since, 800ms);
    CHECK(error_of(log) == errc::timed_out);
  }
  // One that waits for Authenticate is cancelled: nobody waits for it any more.
  const auto calls = world.server.authenticate.calls();
  CHECK_THROWS_AS(world.run(world.store.range(one_key("a")), 200ms), TooLate);
  CHECK(world.server.authenticate.calls() == calls + 1);
  world.server.authenticate.ignore_all(false);  // "authentication is not enabled"
  const auto again = Clock::now();
  CHECK_FALSE(world.run(code_of(world.store.range(one_key("a")))));
  CHECK(Clock::now() - again < 800ms);
}

// ---- R4

TEST_CASE("R4: however the server ends a stream, the watch resumes and loses nothing") {
  RegistryConfig config = quick_config();
  config.retry_interval = 10ms;
  config.max_retry_interval = 100ms;
  Scripted world(connector_config(""), config);
  EventLog log(world.pool, world.reg.watch("user-service"));
  Texts wanted;
  std::int64_t revision = 11;
  auto stream = world.server.next_watch_stream();
  for (int code = 0; code <= 16; ++code) {
    CAPTURE(code);
    CHECK(news_from(stream.expect_create()) == revision);
    stream.send(created(code % 3, revision - 1));
    const auto id = "user-" + std::to_string(code);
    stream.send(events(code % 3, revision, {put_user(id, revision)}));
    wanted.push_back("+" + id + "@" + std::to_string(revision++));
    stream.end(grpc::Status(static_cast<grpc::StatusCode>(code), code == 0 ? "" : "the stream is over"));
    stream = world.server.next_watch_stream();
  }
  CHECK(comes(log, wanted));
  CHECK_FALSE(log.ended());
  CHECK(world.server.range.calls() == 1);
  world.run(world.reg.close());
}

TEST_CASE("R4: a stream that ends before it says anything, again and again, is tried less and less often") {
  Scripted world;  // retry 100 ms to 1 s
  EventLog log(world.pool, world.reg.watch("user-service"));
  int streams = 0;
  const auto until = Clock::now() + 4s;
  while (Clock::now() < until) {
    auto stream = world.server.next_watch_stream();
    CHECK(news_from(stream.expect_create()) == 11);
    stream.end(streams++ % 2 == 0 ? grpc::Status::OK : unavailable());
  }
  CHECK(streams >= 4);
  CHECK(streams <= 40);  // with pauses of 50 ms at the least
  auto stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 11);
  stream.send(created(0, 11));
  stream.send(events(0, 11, {put_user("user-1", 11)}));
  CHECK(comes(log, {"+user-1@11"}));
  world.run(world.reg.close());
}

TEST_CASE(
    "R4: GOAWAY: the running watch goes on until its stream ends, calls take a new connection, nothing is "
    "lost") {
  Scripted world;
  EventLog log(world.pool, world.reg.watch("user-service"));
  auto stream = world.server.next_watch_stream();
  stream.expect_create();
  stream.send(created(0, 10));
  stream.send(events(0, 11, {put_user("user-1", 11)}));
  CHECK(comes(log, {"+user-1@11"}));
  world.server.go_away();
  CHECK_FALSE(world.run(code_of(world.store.range(one_key("a")))));
  stream.send(events(0, 12, {put_user("user-2", 12)}));
  CHECK(comes(log, {"+user-1@11", "+user-2@12"}));
  CHECK_FALSE(world.run(code_of(world.store.range(one_key("a")))));
  stream.end(unavailable("server is shutting down"));
  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 13);
  stream.send(created(0, 13));
  stream.send(events(0, 13, {put_user("user-3", 13)}));
  CHECK(comes(log, {"+user-1@11", "+user-2@12", "+user-3@13"}));
  world.run(world.reg.close());
}

TEST_CASE(
    "R4: too many pings for a real etcd: every GOAWAY is recovered from, the pings get rarer, nothing is "
    "lost") {
  // The config refuses pings more often than every 6 s, which etcd's default allows; a server may allow less.
  // Here the same mismatch in quick: 1 s against 5 s, past the validation.
  class Misconfigured : public Store {
   public:
    Misconfigured(const asio::any_io_executor& executor, const etcd::ConnectorConfig& config)
        : Store(std::make_shared<etcd::detail::Backend>(
              std::make_shared<etcd::detail::Connection>(executor, config, observer()))) {}
  };
  Etcd etcd;
  Gate gate(etcd.endpoint());
  auto config = connector_config(gate.endpoint());
  config.ping_interval = 1s;
  asio::thread_pool pool(2);
  Misconfigured store(pool.get_executor(), config);
  Registry reg(store, quick_config());
  RawEtcd writer({etcd.endpoint()});
  EventLog log(pool, reg.watch("user-service"));
  CHECK(eventually([&] { return etcd.metric("etcd_debugging_mvcc_watcher_total") == 1; }));
  Texts wanted;
  const auto put = [&](const std::string& id) {
    const auto revision = writer.put(key_of("user-service", id), value_of(id));
    REQUIRE(revision);
    wanted.push_back("+" + id + "@" + std::to_string(*revision));
  };
  const auto since = Clock::now();
  for (std::uint64_t connections = 2; connections <= 3; ++connections) {
    put("before-" + std::to_string(connections));
    // Idle: only pings. Three too early ones and the server says GOAWAY, ENHANCE_YOUR_CALM.
    CHECK(eventually([&] { return gate.accepted_total() >= connections; }, 15s));
    put("after-" + std::to_string(connections));
  }
  CHECK(comes(log, wanted));
  // 1 s apart, then 2 s: the second GOAWAY is not as quick as the first.
  CHECK(Clock::now() - since >= 6s);
  rig::run(pool, reg.close());
}

// ---- renewals

TEST_CASE(
    "renewals: a stream that ends without an answer, and one that answers for another lease, say nothing "
    "about ours") {
  Scripted world(connector_config(""), unguarded());
  RegistrationLog states(world.pool, world.reg.registration_events());
  world.server.script_renewals();
  const auto lease = world.run(world.reg.register_instance(instance("user-service", "user-1"), 3s)).lease;
  const std::vector<grpc::Status> ends{grpc::Status::OK, unavailable("etcdserver: no leader"),
                                       grpc::Status(grpc::StatusCode::UNKNOWN, "not a primary lessor"),
                                       grpc::Status(grpc::StatusCode::INTERNAL, "the stream is over")};
  for (const auto& status : ends) {
    auto renewal = world.server.next_renewal(2s);
    CHECK(renewal.expect().id() == lease);
    renewal.end(status);
  }
  auto confused = world.server.next_renewal(2s);
  CHECK(confused.expect().id() == lease);
  confused.send(renewed(lease + 1, 0));
  auto good = world.server.next_renewal(2s);
  CHECK(good.expect().id() == lease);
  good.send(renewed(lease, 3));
  world.server.script_renewals(false);
  CHECK(holds_for(3s, [&] { return !has_state(states, RegistrationState::Lost); }));
  CHECK(world.server.grant.calls() == 1);
  CHECK(world.server.entry(key_of("user-service", "user-1"))->lease() == lease);
  world.run(world.reg.close());
}

TEST_CASE("renewals: a TTL of zero: lost at once, and registered again under a new lease") {
  Scripted world(connector_config(""), unguarded());
  RegistrationLog states(world.pool, world.reg.registration_events());
  const auto lease = world.run(world.reg.register_instance(instance("user-service", "user-1"), 3s)).lease;
  SUBCASE("the key went with the lease") { world.server.expire(lease); }
  SUBCASE("the key is still there, on a lease that the server forgot") {
    world.server.script_renewals();
    auto renewal = world.server.next_renewal();
    CHECK(renewal.expect().id() == lease);
    renewal.send(renewed(lease, 0));
    world.server.script_renewals(false);
  }
  CHECK(eventually([&] { return has_state(states, RegistrationState::Restored); }));
  const auto all = states.all();
  REQUIRE(all.size() == 3);
  CHECK(all[0].state == RegistrationState::Registered);
  CHECK(all[1].state == RegistrationState::Lost);
  CHECK(all[1].reason == errc::lease_lost);
  const auto stored = world.server.entry(key_of("user-service", "user-1"));
  REQUIRE(stored);
  CHECK(stored->lease() != lease);
  CHECK(world.server.grant.calls() == 2);
  world.run(world.reg.close());
}

TEST_CASE("renewals: a grant without a TTL is no lease: the next one is used") {
  Scripted world(connector_config(""), unguarded());
  world.server.grant.change_next([](pb::LeaseGrantResponse& response) { response.set_ttl(0); });
  const auto registration = world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  CHECK(registration.ttl == 5s);
  CHECK(world.server.grant.calls() == 2);
  CHECK(world.server.entry(key_of("user-service", "user-1"))->lease() == registration.lease);
  world.run(world.reg.close());
}

TEST_CASE(
    "close: revocations that are answered at once: close() returns then, not when close_timeout is near") {
  Scripted world;
  for (int round = 0; round < 20; ++round) {
    CAPTURE(round);
    Registry reg(world.store, unguarded(), observer());
    world.run(reg.register_instance(instance("user-service", "user-1"), 5s));
    const auto since = Clock::now();
    world.run(reg.close());
    const bool soon = Clock::now() - since < 2s;  // of 3 s; milliseconds without load
    REQUIRE(soon);
    CHECK(world.server.leases().empty());
  }
}

// ---- malformed answers

TEST_CASE("malformed: a Txn that was applied but answers with too few results is of unknown outcome") {
  Scripted world;
  std::vector<Write> writes;
  writes.emplace_back("a", "v", 0, 0);
  SUBCASE("one write, no result") {
    world.server.txn.change_next([](pb::TxnResponse& response) { response.clear_responses(); });
  }
  SUBCASE("one write, another kind of result") {
    world.server.txn.change_next(
        [](pb::TxnResponse& response) { response.mutable_responses(0)->mutable_response_range(); });
  }
  SUBCASE("two writes, one result") {
    writes.emplace_back("b", "v", 0, 0);
    world.server.txn.change_next(
        [](pb::TxnResponse& response) { response.mutable_responses()->RemoveLast(); });
  }
  SUBCASE("two writes, an empty result") {
    writes.emplace_back("b", "v", 0, 0);
    world.server.txn.change_next(
        [](pb::TxnResponse& response) { response.mutable_responses(1)->clear_response(); });
  }
  SUBCASE("two writes, nothing at all") {
    writes.emplace_back("b", "v", 0, 0);
    world.server.txn.change_next([](pb::TxnResponse& response) { response.Clear(); });
  }
  // The first transaction is refused, and each write judged in a second one.
  const auto contested = [&] {
    world.server.put("b", "theirs", 10);
    writes.emplace_back("b", "v", 0, 0);
    world.server.txn.change_next([](pb::TxnResponse& response) { CHECK_FALSE(response.succeeded()); });
  };
  SUBCASE("two writes, one of them contested, one result") {
    contested();
    world.server.txn.change_next(
        [](pb::TxnResponse& response) { response.mutable_responses()->RemoveLast(); });
  }
  SUBCASE("two writes, one of them contested, an empty result") {
    contested();
    world.server.txn.change_next(
        [](pb::TxnResponse& response) { response.mutable_responses(0)->clear_response(); });
  }
  SUBCASE("two writes, one of them contested, another kind of result") {
    contested();
    world.server.txn.change_next([](pb::TxnResponse& response) {
      response.mutable_responses(0)->mutable_response_txn()->mutable_responses(0)->mutable_response_range();
    });
  }
  SUBCASE("two writes, one of them contested, no answer") {
    contested();
    world.server.txn.lose_next();
  }
  const auto code = world.run(code_of(world.store.backend()->commit(writes)));
  CHECK(world.server.entry("a"));  // "refused" or "nothing was applied" would be a lie
  CHECK(code == errc::outcome_unknown);
}

TEST_CASE("malformed: results missing from a registration's Txn: one key, ours, on its lease") {
  Scripted world(connector_config(""), unguarded());
  world.server.txn.change_next([](pb::TxnResponse& response) { response.clear_responses(); });
  const auto registration = world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  const auto stored = world.server.entry(key_of("user-service", "user-1"));
  REQUIRE(stored);
  CHECK(stored->version() == 1);
  CHECK(stored->lease() == registration.lease);
  world.run(world.reg.close());
}

TEST_CASE(
    "malformed: a page that says more but is empty, or does not go on: an error, and a watch lists again") {
  Scripted world;
  world.server.put(key_of("user-service", "user-1"), value_of("user-1"), 10);
  const auto spoil = [&world](int times) {
    for (int i = 0; i < times; ++i)
      world.server.range.change_next([](pb::RangeResponse& response) {
        response.clear_kvs();
        response.set_more(true);
      });
  };
  spoil(1);
  CHECK(world.run(code_of(world.reg.get_service("user-service")), 5s) == errc::protocol_error);
  spoil(1);
  CHECK(world.run(code_of(world.reg.list_services()), 5s) == errc::protocol_error);
  spoil(2);
  EventLog log(world.pool, world.reg.watch("user-service"));
  CHECK(comes(log, {"+user-1@10"}));
  CHECK(world.run(world.reg.get_service("user-service")).size() == 1);
  world.run(world.reg.close());
}

TEST_CASE("malformed: pages that repeat themselves end in an error, not in an endless list") {
  Scripted world;
  const auto same_page = [&world] {
    for (int i = 0; i < 1000; ++i) {
      world.server.range.answer_next([](const pb::RangeRequest&, pb::RangeResponse& response) {
        response.mutable_header()->set_cluster_id(7);
        response.mutable_header()->set_revision(10);
        *response.add_kvs() = put_user("user-1", 10).kv();
        response.set_more(true);
        return grpc::Status::OK;
      });
    }
  };
  same_page();
  CHECK(world.run(code_of(world.reg.get_service("user-service")), 10s) == errc::protocol_error);
  CHECK(world.server.range.calls() == 2);
  world.run(world.reg.close());
}

TEST_CASE("malformed: another store answers in the middle of a list: it begins anew, and mixes nothing") {
  Scripted world;
  world.server.put(key_of("user-service", "user-2"), value_of("user-2"), 10);
  const auto other_store = [&world] {
    // A first page of a store that is replaced before the second.
    world.server.range.answer_next([](const pb::RangeRequest&, pb::RangeResponse& response) {
      response.mutable_header()->set_cluster_id(6);
      response.mutable_header()->set_revision(8);
      *response.add_kvs() = put_user("user-1", 8).kv();
      response.set_more(true);
      return grpc::Status::OK;
    });
  };
  other_store();
  const auto found = world.run(world.reg.get_service("user-service"));
  REQUIRE(found.size() == 1);
  CHECK(found[0].id == "user-2");
  other_store();
  EventLog log(world.pool, world.reg.watch("user-service"));
  CHECK(eventually([&] { return log.size() >= 1; }));
  auto stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 11);
  stream.send(created(0, 11));
  stream.send(events(0, 11, {put_user("user-3", 11)}));
  CHECK(eventually([&] { return log.size() == 2; }));
  CHECK(contains(seen(log)[0], "+user-2@10"));
  CHECK(seen(log)[1] == "+user-3@11");
  world.run(world.reg.close());
}

TEST_CASE("malformed: no header, no revision, in any answer: an error or a new try, never a crash") {
  Scripted world(impatient(1s), unguarded());
  world.server.put(key_of("user-service", "user-1"), value_of("user-1"), 10);
  world.server.range.answer_next(
      [](const pb::RangeRequest&, pb::RangeResponse&) { return grpc::Status::OK; });
  EventLog log(world.pool, world.reg.watch("user-service"));
  // Listed as empty at revision 0 of a store without a name; the watch shows another store: listed again.
  auto stream = world.server.next_watch_stream();
  CHECK(stream.expect_create().start_revision() >= 1);
  stream.send(created(0, 10));
  stream = world.server.next_watch_stream();
  CHECK(news_from(stream.expect_create()) == 11);
  stream.send(created(0, 10));
  CHECK(eventually([&] { return log.size() == 1; }));
  world.server.txn.answer_next([](const pb::TxnRequest&, pb::TxnResponse&) { return grpc::Status::OK; });
  const auto registration = world.run(world.reg.register_instance(instance("user-service", "user-2"), 5s));
  CHECK(world.server.entry(key_of("user-service", "user-2"))->lease() == registration.lease);
  world.run(world.reg.close());
}
