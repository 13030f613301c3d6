// The code of docs/discovery.md, run on a MemoryStore.
#include <doctest/doctest.h>

#include <asio/co_spawn.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/steady_timer.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>
#include <chrono>
#include <functional>
#include <iostream>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/registry.hpp"
#include "rig/temp_dir.hpp"
#include "rig/world.hpp"

using namespace std::chrono_literals;
using rig::eventually;

namespace {

using Seen = std::function<void(const std::string&)>;

using Ask = std::function<asio::awaitable<bool>(const std::string&)>;

asio::awaitable<void> call_one(registry::Registry& reg, Ask ask) {
  // begin: smallest
  registry::ServiceView view = co_await reg.subscribe("user-service");  // a live local list: keep it
  registry::RoundRobinBalancer balancer;                                // and this beside it
  if (auto instance = balancer.pick(view)) {                            // no call to etcd; any thread
    co_await ask(instance->endpoints.front());
  }
  // end: smallest
}

asio::awaitable<void> call_least_loaded(registry::ServiceView view, Ask ask) {
  // begin: least loaded
  registry::LeastLoadedBalancer balancer;
  if (auto call = balancer.begin(view)) {  // in flight until `call` is gone
    const bool ok = co_await ask(call->endpoints.front());
    if (!ok) call.failed();  // the others are preferred for a while
  }
  // end: least loaded
}

// begin: read
asio::awaitable<std::vector<registry::ServiceInstance>> in_zone_a(registry::Registry& reg) {
  registry::ServiceFilter filter;
  filter.version("v1").metadata("zone", "a");  // all of it must match
  auto instances = co_await reg.get_service("user-service", filter);
  co_return instances;  // by id; what etcd says now
}
// end: read

// begin: watch
asio::awaitable<void> follow(registry::Registry& reg, Seen seen) {
  auto events = reg.watch("user-service");  // first a Put for each instance there
  while (auto event = co_await events.next()) {
    const bool gone = event->type == registry::EventType::Delete;
    seen((gone ? "- " : "+ ") + event->service.id + (event->resynced ? " (resynced)" : ""));
  }
  // the Registry was closed
}
// end: watch

// begin: timer
asio::awaitable<std::optional<registry::ServiceEvent>> event_within(
    registry::Generator<registry::ServiceEvent>& events, std::chrono::milliseconds time) {
  using namespace asio::experimental::awaitable_operators;
  asio::steady_timer limit(co_await asio::this_coro::executor, time);
  co_await (events.wait() || limit.async_wait(asio::use_awaitable));  // takes nothing
  co_return events.try_next();
}
// end: timer

// begin: lists
asio::awaitable<void> follow_lists(registry::ServiceView view, Seen seen) {
  for (;;) {
    auto list = co_await view.next();  // the newest list; those in between are skipped
    seen(std::to_string(list->instances.size()) + (list->stale ? " instances, stale" : " instances"));
  }
}
// end: lists

// begin: stale
bool trustworthy(const registry::ServiceView& view) {
  const auto list = view.snapshot();
  const auto age = std::chrono::steady_clock::now() - list->as_of;  // since etcd confirmed it last
  return !list->stale || age < std::chrono::minutes(5);
}
// end: stale

registry::RegistryConfig careful(const std::string& folder) {
  // begin: careful
  registry::RegistryConfig config;
  config.last_known_good_folder = folder;  // such as "/var/lib/my-service/registry"
  config.disappearance_limit = 0.5;        // more than half of a service gone at once? not believed
  config.disappearance_hold = 1min;        // for longer than this
  // end: careful
  return config;
}

struct ServiceWorld : rig::MemoryWorld {
  using MemoryWorld::MemoryWorld;
  void add(const std::string& id, const std::string& version = "v1", const std::string& zone = "a") {
    auto instance = rig::instance("user-service", id, version);
    instance.metadata["zone"] = zone;
    run(reg.register_instance(instance));
  }
};

/// Lines from a coroutine on the pool.
class Lines {
 public:
  void operator()(const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(line);
  }
  std::vector<std::string> all() const {
    const std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

}  // namespace

TEST_CASE("discovery: pick one, read all, read some") {
  ServiceWorld world;
  std::vector<std::string> asked;
  const Ask ask = [&asked](const std::string& endpoint) -> asio::awaitable<bool> {
    asked.push_back(endpoint);
    co_return true;
  };
  world.run(call_one(world.reg, ask));
  CHECK(asked.empty());  // nobody is there
  world.add("user-1");
  world.add("user-2", "v2");
  world.add("user-3", "v1", "b");
  world.run(call_one(world.reg, ask));
  CHECK(asked == std::vector<std::string>{"grpc://127.0.0.1:9001"});
  const auto found = world.run(in_zone_a(world.reg));
  REQUIRE(found.size() == 1);
  CHECK(found.front().id == "user-1");
}

TEST_CASE("discovery: a watch tells what is there, then what happens, and marks what it re-listed") {
  ServiceWorld world;
  world.add("user-1");
  Lines lines;
  auto done = asio::co_spawn(world.pool, follow(world.reg, std::ref(lines)), asio::use_future);
  CHECK(eventually([&] { return lines.all().size() == 1; }));
  world.add("user-2");
  world.run(world.reg.deregister("user-1"));
  CHECK(eventually([&] { return lines.all().size() == 3; }));
  CHECK(lines.all() == std::vector<std::string>{"+ user-1", "+ user-2", "- user-1"});

  // History is lost while the connection is.
  world.store.set_unavailable(true);
  const auto key = rig::key_of("user-service", "user-3");
  const auto value = registry::encode(rig::instance("user-service", "user-3"));
  world.store.put(key, value);
  const auto revision = world.store.put(key, value);
  world.store.compact(revision);
  world.store.set_unavailable(false);
  CHECK(eventually([&] { return lines.all().size() == 4; }));
  CHECK(lines.all().back() == "+ user-3 (resynced)");
  world.run(world.reg.close());
  done.get();
}

TEST_CASE("discovery: waiting for an event with a timer loses none") {
  ServiceWorld world;
  auto events = world.reg.watch("user-service");
  CHECK_FALSE(world.run(event_within(events, 10ms)));
  world.add("user-1");
  const auto event = world.run(event_within(events, 10s));
  REQUIRE(event);
  CHECK(event->service.id == "user-1");
}

TEST_CASE("discovery: a view says that it is stale, and keeps its list") {
  ServiceWorld world;
  world.add("user-1");
  const auto view = world.run(world.reg.subscribe("user-service"));
  CHECK(trustworthy(view));
  Lines lines;
  auto done = asio::co_spawn(world.pool, follow_lists(view, std::ref(lines)), asio::use_future);
  CHECK(eventually([&] { return lines.all().size() == 1; }));
  world.store.set_unavailable(true);
  CHECK(eventually([&] { return lines.all().size() == 2; }));
  CHECK(lines.all() == std::vector<std::string>{"1 instances", "1 instances, stale"});
  CHECK(trustworthy(view));  // not for five minutes yet
  world.store.set_unavailable(false);
  CHECK(eventually([&] { return lines.all().size() == 3; }));
  world.run(world.reg.close());
  CHECK_THROWS_AS(done.get(), std::system_error);  // closed
}

TEST_CASE("discovery: what vanishes all at once is held back, from views only") {
  const rig::TempDir folder;
  ServiceWorld world(careful(folder.path()));
  world.add("user-1");
  const auto view = world.run(world.reg.subscribe("user-service"));
  registry::Registry others(world.store);  // whose leases are one
  for (const char* id : {"user-2", "user-3", "user-4"}) {
    const auto instance = rig::instance("user-service", id);
    world.run(others.register_instance(instance));
  }
  CHECK(eventually([&] { return view.snapshot()->instances.size() == 4; }));
  world.run(others.close());
  CHECK(eventually([&] { return view.snapshot()->held == 3; }));
  CHECK(view.snapshot()->instances.size() == 4);
  CHECK(world.run(world.reg.get_service("user-service")).size() == 1);
}

TEST_CASE("discovery: a client starts with its last known good list while the store is away") {
  const rig::TempDir folder;
  ServiceWorld world(careful(folder.path()));
  world.add("user-1");
  {
    const auto view = world.run(world.reg.subscribe("user-service"));
    world.run(world.reg.close());  // writes the list
  }
  registry::MemoryStore away(world.pool.get_executor());
  away.set_unavailable(true);
  registry::Registry later(away, careful(folder.path()));
  const auto view = world.run(later.subscribe("user-service"));
  CHECK(view.snapshot()->stale);
  CHECK(view.snapshot()->instances.size() == 1);
}

TEST_CASE("discovery: balancers choose by load, by key and by zone") {
  ServiceWorld world;
  world.add("user-1");
  world.add("user-2", "v1", "b");
  const auto view = world.run(world.reg.subscribe("user-service"));
  bool asked = false;
  const Ask ask = [&asked](const std::string&) -> asio::awaitable<bool> {
    asked = true;
    co_return false;
  };
  world.run(call_least_loaded(view, ask));
  CHECK(asked);
  const std::string user_id = "somebody";
  // begin: by key
  registry::BalancerConfig near;
  near.zone = "a";      // this zone first,
  near.min_nearby = 2;  // unless there are fewer than two: then the others as well
  registry::ConsistentHashBalancer by_user(near);
  auto instance = by_user.pick(view, user_id);  // equal keys, equal instances
  // end: by key
  REQUIRE(instance);
  CHECK(by_user.pick(view, user_id) == instance);
  near.min_nearby = 1;
  registry::RoundRobinBalancer at_home(near);
  for (int i = 0; i < 4; ++i) CHECK(at_home.pick(view)->id == "user-1");
}
