// Watching and viewing services in a MemoryStore: what a consumer sees, whatever the store and the network do
// meanwhile.
#include <doctest/doctest.h>

#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "registry/discovery/directory.hpp"
#include "registry/model/encode.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/run.hpp"
#include "rig/seed.hpp"

using namespace registry;
using namespace registry::detail;
using namespace std::chrono_literals;

namespace {

/// Passes everything on and counts.
class CountingBackend final : public StoreBackend {
 public:
  explicit CountingBackend(std::shared_ptr<StoreBackend> behind) : behind_(std::move(behind)) {}

  /// From now on another store answers.
  void replace(std::shared_ptr<StoreBackend> behind) { behind_ = std::move(behind); }

  std::atomic<int> lists{0}, watches{0}, keys{0};

  asio::any_io_executor get_executor() const noexcept override { return behind_->get_executor(); }
  Limits limits() const noexcept override { return behind_->limits(); }
  asio::awaitable<Page> list(ListQuery query) override {
    ++lists;
    Page page = co_await behind_->list(std::move(query));
    keys += static_cast<int>(page.items.size());
    co_return page;
  }
  Generator<Batch> watch(KeyRange range, std::int64_t from) override {
    ++watches;
    return behind_->watch(std::move(range), from);
  }
  asio::awaitable<Committed> commit(std::vector<Write> writes) override {
    return behind_->commit(std::move(writes));
  }
  asio::awaitable<Lease> grant(std::int64_t id, std::chrono::seconds ttl) override {
    return behind_->grant(id, ttl);
  }
  asio::awaitable<std::chrono::seconds> renew(std::int64_t id, std::chrono::milliseconds timeout) override {
    return behind_->renew(id, timeout);
  }
  asio::awaitable<void> revoke(std::int64_t id) override { return behind_->revoke(id); }
  void cancel() noexcept override { behind_->cancel(); }

 private:
  std::shared_ptr<StoreBackend> behind_;
};

class NotingObserver final : public Logger, public Metrics {
 public:
  std::vector<std::string> lines;
  std::map<std::string, double> counts;
  void log(LogLevel, std::string_view text) noexcept override { lines.emplace_back(text); }
  void add(const registry::Metric& metric, std::string_view service, double amount) noexcept override {
    counts[std::string(metric.name).append("|").append(service)] += amount;
  }
};

ServiceInstance instance(const std::string& id, const std::string& version = "1",
                         const std::string& service = "svc") {
  ServiceInstance made(service, id);
  made.version = version;
  made.endpoints = {"grpc://10.0.0.1:1"};
  return made;
}

RegistryConfig quick() {
  RegistryConfig config;
  config.retry_interval = 1ms;
  config.max_retry_interval = 5ms;
  return config;
}

template <class Context>
struct World {
  MemoryStore store;
  KeyLayout keys{"/ns"};
  std::shared_ptr<CountingBackend> backend = std::make_shared<CountingBackend>(store.backend());
  std::shared_ptr<NotingObserver> notes = std::make_shared<NotingObserver>();
  Home home;
  std::shared_ptr<Directory> directory;

  explicit World(Context& context)
      : store(context.get_executor()),
        home(Home::strand(context.get_executor())),
        directory(std::make_shared<Directory>(backend, keys, quick(), Observer(notes, notes), home)) {}

  std::int64_t put(const ServiceInstance& one) {
    return store.put(keys.key_of(one.name, one.id), encode(one));
  }
  bool erase(const std::string& id) { return store.erase(keys.key_of("svc", id)); }
  Generator<ServiceEvent> watch(ServiceFilter filter = {}, std::size_t limit = Directory::watch_queue) {
    return Directory::watch(directory, "svc", std::move(filter), limit);
  }
};

std::string shown(const ServiceEvent& event) {
  return (event.type == EventType::Put ? "+" : "-") + event.service.id + ":" + event.service.version +
         (event.resynced ? "~ " : " ");
}

asio::awaitable<std::string> take(Generator<ServiceEvent>& events, int count) {
  std::string log;
  for (; count > 0; --count) {
    const auto event = co_await events.next();
    if (!event) {
      log += "end";
      break;
    }
    log += shown(*event);
  }
  co_return log;
}

std::string ids(const ServiceView& view) {
  std::string all;
  const auto list = view.snapshot();
  for (const auto& one : list->instances) all += one->id + ":" + one->version + " ";
  return all + (list->stale ? "stale" : "");
}

using Local = World<asio::io_context>;

asio::awaitable<void> close(std::shared_ptr<Directory> directory, Home home) {
  home.post([directory] { directory->cancel(); });
  co_await Directory::join(directory);
}

/// Until nothing of the library runs any more and nobody but the test holds the directory.
bool alone(const std::shared_ptr<Directory>& directory) { return directory.use_count() == 1; }

}  // namespace

TEST_CASE("watch: what is there first, then every change once and in order") {
  asio::io_context io;
  Local world(io);
  world.put(instance("b"));
  world.put(instance("a"));
  auto events = world.watch();
  CHECK(rig::run(io, take(events, 2)) == "+a:1 +b:1 ");
  const auto revision = world.put(instance("a", "2"));
  const auto changed = rig::run(io, events.next());
  REQUIRE(changed);
  CHECK(shown(*changed) == "+a:2 ");
  CHECK(changed->revision == revision);
  CHECK(changed->service == instance("a", "2"));
  world.erase("b");
  world.put(instance("b", "3"));
  world.put(instance("x", "1", "svc-other"));
  world.erase("a");
  CHECK(rig::run(io, take(events, 3)) == "-b:1 +b:3 -a:2 ");
  CHECK(world.notes->counts["registry_watch_events_total|svc"] == 4);
}

TEST_CASE("watch: reconnecting repeats nothing and skips nothing") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a"));
  auto events = world.watch();
  CHECK(rig::run(io, take(events, 1)) == "+a:1 ");
  for (int round = 0; round < 5; ++round) {
    const int before = world.backend->watches;
    world.store.set_unavailable(true);
    world.put(instance("a", "x"));
    world.erase("a");
    world.put(instance("a", std::to_string(round)));
    world.store.set_unavailable(false);
    CHECK(rig::run(io, take(events, 3)) == "+a:x -a:x +a:" + std::to_string(round) + " ");
    CHECK(world.backend->watches > before);
  }
  CHECK(world.backend->lists == 1);
  CHECK_FALSE(events.try_next());
}

TEST_CASE("watch: what was compacted while disconnected comes as a difference, removals first, marked") {
  asio::io_context io;
  Local world(io);
  for (const char* id : {"a", "b", "c", "d"}) world.put(instance(id));
  auto events = world.watch();
  CHECK(rig::run(io, take(events, 4)) == "+a:1 +b:1 +c:1 +d:1 ");
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  world.store.set_unavailable(true);
  world.put(instance("a", "2"));
  world.put(instance("a", "3"));
  world.erase("c");
  world.erase("d");
  const auto revision = world.put(instance("e"));
  world.store.compact(revision);
  world.store.set_unavailable(false);
  CHECK(rig::run(io, take(events, 4)) == "-c:1~ -d:1~ +a:3~ +e:1~ ");
  CHECK(ids(view) == "a:3 b:1 e:1 ");
  CHECK(world.notes->counts["registry_resyncs_total|svc"] == 1);
  world.put(instance("b", "9"));
  CHECK(rig::run(io, take(events, 1)) == "+b:9 ");
}

TEST_CASE("watch: another store behind the same name is told as a difference") {
  asio::io_context io;
  Local world(io);
  MemoryStore other(io.get_executor());
  for (const char* id : {"a", "b", "c"}) {  // the same keys at the same revisions
    world.put(instance(id));
    other.put(world.keys.key_of("svc", id), encode(instance(id, *id == 'b' ? "other" : "1")));
  }
  auto events = world.watch();
  CHECK(rig::run(io, take(events, 3)) == "+a:1 +b:1 +c:1 ");
  other.put(world.keys.key_of("svc", "d"), encode(instance("d")));
  world.put(instance("e"));
  CHECK(rig::run(io, take(events, 1)) == "+e:1 ");
  world.backend->replace(other.backend());
  world.store.disconnect();
  CHECK(rig::run(io, take(events, 3)) == "-e:1~ +b:other~ +d:1~ ");
  CHECK_FALSE(events.try_next());
}

TEST_CASE("watch: whatever happens to the store, a consumer ends where it is") {
  std::mt19937_64 random(rig::test_seed("watch"));
  for (int round = 0; round < 20; ++round) {
    asio::io_context io;
    Local world(io);
    const ServiceFilter filter = round % 2 != 0 ? ServiceFilter().version("0") : ServiceFilter();
    auto events = world.watch(filter, 1 + random() % 6);
    auto view = rig::run(io, Directory::subscribe(world.directory, "svc", filter));
    std::map<std::string, ServiceInstance> consumer;
    std::int64_t revision = 1;
    const auto take_one = [&] {
      const auto event = events.try_next();
      if (!event) return false;
      if (event->type == EventType::Put) {
        CHECK(filter.matches(event->service));
        consumer[event->service.id] = event->service;
      } else {
        CHECK(consumer.erase(event->service.id) == 1);
      }
      return true;
    };
    for (int step = 0; step < 150; ++step) {
      const std::string id = "i" + std::to_string(random() % 6);
      switch (random() % 10) {
        case 0: world.erase(id); break;
        case 1: revision = world.store.put("/ns/svc/" + id, "bad"); break;
        case 2: world.store.set_unavailable(random() % 2 != 0); break;
        case 3: world.store.disconnect(); break;
        case 4: try { world.store.compact(revision);
          } catch (const std::system_error&) {
          }
          break;
        case 5:
          for (int i = 0; i < 20; ++i) io.poll();
          break;
        case 6: take_one(); break;
        default: revision = world.put(instance(id, std::to_string(random() % 2)));
      }
    }
    world.store.set_unavailable(false);
    world.put(instance("end", "0"));
    rig::run(io, rig::until([&] {
               while (take_one()) {
               }
               return consumer.count("end") != 0;
             }));
    std::vector<ServiceInstance> got, seen;
    for (const auto& [id, one] : consumer) got.push_back(one);
    for (const auto& one : view.snapshot()->instances) seen.push_back(*one);
    CHECK(got == rig::run(io, Directory::get(world.directory, "svc", filter)));
    CHECK(seen == got);
  }
}

TEST_CASE("watch: a filter turns leaving into delete and entering into put") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a", "1"));
  world.put(instance("b", "2"));
  auto events = world.watch(ServiceFilter().version("1"));
  CHECK(rig::run(io, take(events, 1)) == "+a:1 ");
  world.put(instance("a", "2"));
  world.put(instance("b", "1"));
  world.erase("a");
  world.erase("b");
  world.put(instance("c", "1"));
  CHECK(rig::run(io, take(events, 4)) == "-a:1 +b:1 -b:1 +c:1 ");
}

TEST_CASE("watch: a bad value is skipped and told, and ends the instance that it replaces") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a"));
  world.store.put("/ns/svc/bad\n", "{nonsense");
  world.store.put("/ns/svc/a/inner", "somebody else's");
  auto events = world.watch();
  CHECK(rig::run(io, take(events, 1)) == "+a:1 ");
  world.store.put("/ns/svc/a", "[]");
  CHECK(rig::run(io, take(events, 1)) == "-a:1 ");
  world.put(instance("a", "2"));
  world.put(instance("bad\n", "3"));
  CHECK(rig::run(io, take(events, 2)) == "+a:2 +bad\n:3 ");
  CHECK(world.notes->counts["registry_skipped_values_total|svc"] == 2);
  REQUIRE(world.notes->lines.size() == 2);
  CHECK(world.notes->lines[0].find("bad\\x0a") != std::string::npos);
}

TEST_CASE("watch: a group is a level of its own") {
  asio::io_context io;
  Local world(io);
  auto grouped =
      std::make_shared<Directory>(world.backend, KeyLayout("/ns", "blue"), quick(), Observer(), world.home);
  world.put(instance("a"));
  world.store.put("/ns/blue/svc/b", encode(instance("b")));
  auto events = Directory::watch(grouped, "svc", {});
  CHECK(rig::run(io, take(events, 1)) == "+b:1 ");
  CHECK(rig::run(io, Directory::get(grouped, "svc", {})).size() == 1);
  CHECK(rig::run(io, Directory::list_services(world.directory)) == std::vector<std::string>{"svc"});
  CHECK(rig::run(io, Directory::list_services(grouped)) == std::vector<std::string>{"svc"});
}

TEST_CASE("watch: any number of watchers and views share one list and one watch of the store") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a"));
  std::vector<Generator<ServiceEvent>> all;
  for (int i = 0; i < 1000; ++i) all.push_back(world.watch());
  for (auto& events : all) CHECK_FALSE(events.try_next());  // starts them
  for (auto& events : all) CHECK(rig::run(io, take(events, 1)) == "+a:1 ");
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  world.put(instance("b"));
  for (auto& events : all) CHECK(rig::run(io, take(events, 1)) == "+b:1 ");
  CHECK(world.backend->lists == 1);
  CHECK(world.backend->watches == 1);

  all.clear();
  rig::run(io, rig::until([&] { return world.directory->followed_services() == 1; }));
  CHECK(ids(view) == "a:1 b:1 ");
  view = ServiceView();
  rig::run(io, rig::until([&] { return world.directory->followed_services() == 0; }));
  auto again = world.watch();
  CHECK(rig::run(io, take(again, 2)) == "+a:1 +b:1 ");
  CHECK(world.backend->watches == 2);
}

TEST_CASE("watch: a slow consumer folds and ends at the same place; others see everything") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a"));
  auto slow = world.watch({}, 4);
  auto quick_one = world.watch();
  CHECK(rig::run(io, take(slow, 1)) == "+a:1 ");
  CHECK(rig::run(io, take(quick_one, 1)) == "+a:1 ");
  std::string expected;
  for (int i = 0; i < 50; ++i) {
    world.put(instance("a", std::to_string(i)));
    world.put(instance("b", std::to_string(i)));
    world.erase("b");
    expected += "+a:" + std::to_string(i) + " +b:" + std::to_string(i) + " -b:" + std::to_string(i) + " ";
  }
  world.put(instance("c"));
  CHECK(rig::run(io, take(quick_one, 150)) == expected);
  CHECK(rig::run(io, take(slow, 2)) == "+a:49~ +c:1~ ");  // marked: b came and went unseen
  CHECK_FALSE(slow.try_next());
}

TEST_CASE("view: one that nobody made is an empty, stale list") {
  const ServiceView view;
  CHECK_FALSE(view);
  REQUIRE(view.snapshot());
  CHECK(view.snapshot()->stale);
  CHECK(view.snapshot()->instances.empty());
}

TEST_CASE("view: follows the service, keeps the last list while the store is away, and says so") {
  asio::io_context io;
  Local world(io);
  world.put(instance("b"));
  world.put(instance("a"));
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  CHECK(ids(view) == "a:1 b:1 ");
  CHECK(view.snapshot() == view.snapshot());
  CHECK(rig::run(io, view.next()) == view.snapshot());  // the first call returns at once
  const auto lists = world.backend->lists.load();

  const auto revision = world.put(instance("c"));
  auto list = rig::run(io, view.next());
  CHECK(list->instances.size() == 3);
  CHECK(list->revision == revision);
  CHECK(list->find("c") != nullptr);
  const auto unchanged = list->find("a");

  world.store.set_unavailable(true);
  const auto before = std::chrono::steady_clock::now();
  list = rig::run(io, view.next());
  CHECK(ids(view) == "a:1 b:1 c:1 stale");
  CHECK(list->as_of <= before + 1ms);
  CHECK(list->find("a") == unchanged);
  world.erase("a");
  world.store.set_unavailable(false);
  rig::run(io, rig::until([&] { return ids(view) == "b:1 c:1 "; }));
  CHECK(world.backend->lists == lists);
}

TEST_CASE("view: every copy has its own place, all of them may wait, and a cancelled wait loses nothing") {
  asio::io_context io;
  Local world(io);
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  auto copy = view;
  rig::run(io, view.next());
  CHECK(rig::run(io, copy.next())->instances.empty());

  asio::cancellation_signal cancel;
  std::exception_ptr cancelled;
  asio::co_spawn(io, view.next(),
                 asio::bind_cancellation_slot(cancel.slot(),
                                              [&](std::exception_ptr error, auto) { cancelled = error; }));
  std::size_t seen_by_copy = 0, ready = 0;
  asio::co_spawn(io, copy.next(),
                 [&](std::exception_ptr, auto list) { seen_by_copy = list->instances.size(); });
  asio::co_spawn(io, copy.wait_ready(2), [&](std::exception_ptr error) { ready = error ? 99 : 1; });
  io.poll();
  cancel.emit(asio::cancellation_type::terminal);
  rig::run(io, rig::until([&] { return cancelled != nullptr; }));
  world.put(instance("a"));
  CHECK(rig::run(io, view.next())->instances.size() == 1);
  rig::run(io, rig::until([&] { return seen_by_copy == 1; }));
  CHECK(ready == 0);
  world.put(instance("b"));
  rig::run(io, rig::until([&] { return ready == 1; }));
}

TEST_CASE("view: a filter, and changes outside of it wake nobody") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a", "1"));
  world.put(instance("b", "2"));
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", ServiceFilter().version("1")));
  auto all = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  CHECK(ids(view) == "a:1 ");
  rig::run(io, view.next());
  rig::run(io, all.next());
  bool woken = false;
  asio::co_spawn(io, view.next(), [&](std::exception_ptr, auto) { woken = true; });
  world.put(instance("c", "2"));
  rig::run(io, all.next());
  io.poll();
  CHECK_FALSE(woken);
  world.put(instance("b", "1"));
  rig::run(io, rig::until([&] { return woken; }));
  CHECK(ids(view) == "a:1 b:1 ");
}

TEST_CASE("subscribe: an unreachable store ends it with the real error, within its patience") {
  asio::io_context io;
  Local world(io);
  world.store.set_unavailable(true);
  const auto code = [&](auto work) {
    try {
      rig::run(io, std::move(work));
    } catch (const std::system_error& error) {
      return error.code();
    }
    return std::error_code();
  };
  CHECK(code(Directory::subscribe(world.directory, "svc", {}, 30ms)) == errc::unavailable);
  CHECK(code(Directory::subscribe(world.directory, "svc", {}, 0ms)) == errc::unavailable);
  rig::run(io, rig::until([&] { return world.directory->followed_services() == 0; }));
  world.store.set_unavailable(false);
  CHECK(ids(rig::run(io, Directory::subscribe(world.directory, "svc", {}, 0ms))).empty());  // it is under way
  world.store.backend()->cancel();
  CHECK(code(Directory::subscribe(world.directory, "svc", {})) == errc::closed);
}

TEST_CASE("close: generators end, waits on views end, nothing runs any more") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a"));
  auto events = world.watch();
  CHECK(rig::run(io, take(events, 1)) == "+a:1 ");
  auto unstarted = world.watch();
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  rig::run(io, view.next());
  std::vector<std::error_code> codes;
  const auto note = [&](std::exception_ptr error) { codes.push_back(detail::problem_of(error)); };
  asio::co_spawn(io, view.next(), [&](std::exception_ptr error, auto) { note(error); });
  asio::co_spawn(io, view.wait_ready(5), note);
  std::string end;
  asio::co_spawn(io, take(events, 1), [&](std::exception_ptr, std::string log) { end = log; });
  io.poll();
  rig::run(io, close(world.directory, world.home));
  rig::run(io, rig::until([&] { return codes.size() == 2 && !end.empty(); }));
  CHECK(codes[0] == errc::closed);
  CHECK(codes[1] == errc::closed);
  CHECK(end == "end");
  CHECK(rig::run(io, take(unstarted, 1)) == "end");
  CHECK(ids(view) == "a:1 stale");
  CHECK(alone(world.directory));
}

TEST_CASE("close of the store ends watchers and views as well; what comes later is told, too") {
  asio::io_context io;
  Local world(io);
  world.put(instance("a"));
  auto events = world.watch();
  CHECK(rig::run(io, take(events, 1)) == "+a:1 ");
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  world.store.backend()->cancel();
  CHECK(rig::run(io, take(events, 1)) == "end");
  auto late = world.watch();
  CHECK(rig::run(io, take(late, 1)) == "end");
  CHECK(ids(view) == "a:1 stale");
}

TEST_CASE("read: services and instances, from pages") {
  asio::io_context io;
  Local world(io);
  for (int i = 0; i < 2500; ++i)
    world.put(instance("i" + std::to_string(i), i % 2 == 0 ? "even" : "odd", "big"));
  for (const char* name : {"a", "a-b", "a.b", "big-er", "zz"}) world.put(instance("x", "1", name));
  world.store.put("/ns/no-service", "1");
  world.store.put("/ns/deep/er/key", "1");
  world.store.put("/ns/zz/bad", "1");
  CHECK(rig::run(io, Directory::get(world.directory, "big", {})).size() == 2500);
  CHECK(rig::run(io, Directory::get(world.directory, "big", ServiceFilter().version("odd"))).size() == 1250);
  CHECK(rig::run(io, Directory::get(world.directory, "zz", {})) == std::vector{instance("x", "1", "zz")});
  CHECK(rig::run(io, Directory::get(world.directory, "none", {})).empty());
  world.backend->keys = 0;
  CHECK(rig::run(io, Directory::list_services(world.directory)) ==
        std::vector<std::string>{"a", "a-b", "a.b", "big", "big-er", "zz"});
  CHECK(world.backend->keys < 600);
  rig::run(io, close(world.directory, world.home));
  CHECK_THROWS_AS(rig::run(io, Directory::get(world.directory, "zz", {})), std::system_error);
}

TEST_CASE("a directory that is dropped without a word ends what it follows") {
  asio::io_context io;
  Local world(io);
  auto events = world.watch();
  world.put(instance("a"));
  CHECK(rig::run(io, take(events, 1)) == "+a:1 ");
  auto view = rig::run(io, Directory::subscribe(world.directory, "svc", {}));
  world.directory.reset();
  CHECK(rig::run(io, take(events, 1)) == "end");
  rig::run(io, rig::until([&] { return world.backend.use_count() == 1; }));
  CHECK(ids(view) == "a:1 stale");
}

TEST_CASE("destruction in any order leaves nothing behind and breaks nothing") {
  std::mt19937_64 random(rig::test_seed("destruction"));
  for (int round = 0; round < 60; ++round) {
    auto io = std::make_unique<asio::io_context>();
    auto world = std::make_unique<Local>(*io);
    world->put(instance("a"));
    auto events = std::make_unique<Generator<ServiceEvent>>(world->watch());
    auto unstarted = std::make_unique<Generator<ServiceEvent>>(world->watch());
    CHECK(rig::run(*io, take(*events, 1)) == "+a:1 ");
    auto view =
        std::make_unique<ServiceView>(rig::run(*io, Directory::subscribe(world->directory, "svc", {})));
    const bool waiting = random() % 2 != 0;
    if (waiting) {
      asio::co_spawn(*io, events->next(), [](std::exception_ptr, auto) {});
      asio::co_spawn(*io, view->wait_ready(7), [](std::exception_ptr) {});
      io->poll();
    }
    std::vector<std::function<void()>> ends{[&] { events.reset(); }, [&] { unstarted.reset(); },
                                            [&] { view.reset(); }, [&] { io.reset(); },
                                            [&] { world.reset(); }};
    std::shuffle(ends.begin(), ends.end(), random);
    for (auto& end : ends) {
      end();
      if (io && random() % 2 != 0) io->poll();
      if (view) CHECK(view->snapshot()->instances.size() == 1);
      if (unstarted && !io) CHECK_FALSE(unstarted->try_next());
    }
  }
}

TEST_CASE("threads: watchers, views and writers on a pool, destroyed from other threads") {
  asio::thread_pool pool(2);
  World<asio::thread_pool> world(pool);
  world.put(instance("a", "0"));
  std::atomic<bool> done{false};
  auto view = rig::run(pool, Directory::subscribe(world.directory, "svc", {}));
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&, copy = view] {
      std::int64_t last = 0;
      while (!done) {
        const auto list = copy.snapshot();
        CHECK(list->instances.size() >= 1);
        CHECK(list->revision >= last);
        last = list->revision;
        auto short_lived = world.watch();
        short_lived.try_next();
      }
    });
  }
  for (int i = 1; i <= 300; ++i) {
    world.put(instance("a", std::to_string(i)));
    if (i % 50 == 0) world.store.disconnect();
  }
  auto events = world.watch({}, 8);
  const auto follow_to = [](Generator<ServiceEvent> from,
                            std::string version) -> asio::awaitable<std::string> {
    while (auto event = co_await from.next()) {
      if (event->service.version == version) co_return version;
    }
    co_return "end";
  };
  CHECK(rig::run(pool, follow_to(std::move(events), "300")) == "300");
  rig::run(pool, rig::until([&] { return view.snapshot()->instances.at(0)->version == "300"; }));
  done = true;
  for (auto& reader : readers) reader.join();
  rig::run(pool, close(world.directory, world.home));
  CHECK(view.snapshot()->stale);
  pool.join();
}
