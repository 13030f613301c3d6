// A watch and a view through every failure of etcd: right again by themselves, and no change missed in
// silence.
#include <doctest/doctest.h>

#include <chrono>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

void put(Etcd& etcd, const std::string& id, const std::string& version = "v1") {
  etcd.put(key_of("user-service", id), encode(instance("user-service", id, version)));
}
void del(Etcd& etcd, const std::string& id) { etcd.del(key_of("user-service", id)); }

using Content = std::map<std::string, std::string>;  // id to version

Content content(const ServiceView& view) {
  Content all;
  for (const auto& each : view.snapshot()->instances) all[each->id] = each->version;
  return all;
}

/// What a consumer that applies the events in order has in the end; fails on a Delete of what was never
/// given.
Content applied(const EventLog& log) {
  Content all;
  for (const auto& event : log.all()) {
    if (event.type == EventType::Put) {
      all[event.service.id] = event.service.version;
    } else {
      CHECK(all.erase(event.service.id) == 1);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("discovery: etcd is killed and restarted while watching") {
  World world;
  put(world.etcd, "user-1");
  EventLog log(world.pool, world.reg.watch("user-service"));
  const auto view = world.run(world.reg.subscribe("user-service"));
  CHECK(content(view) == Content{{"user-1", "v1"}});
  world.etcd.kill();
  CHECK(eventually([&] { return view.snapshot()->stale; }));
  CHECK(content(view) == Content{{"user-1", "v1"}});  // last known good
  world.etcd.restart();
  put(world.etcd, "user-2");
  put(world.etcd, "user-1", "v2");
  const Content wanted{{"user-1", "v2"}, {"user-2", "v1"}};
  CHECK(eventually([&] { return content(view) == wanted && applied(log) == wanted; }));
  CHECK(eventually([&] { return !view.snapshot()->stale; }));
  world.run(world.reg.close());
  CHECK(eventually([&] { return log.ended(); }));
  CHECK_FALSE(log.error());
}

TEST_CASE(
    "discovery: compaction while disconnected; the difference is delivered, removals first, marked as "
    "resynced") {
  World world;
  put(world.etcd, "user-1");
  put(world.etcd, "user-2");
  EventLog log(world.pool, world.reg.watch("user-service"));
  CHECK(eventually([&] { return log.size() == 2; }));
  world.gate.refuse();
  del(world.etcd, "user-1");
  put(world.etcd, "user-2", "v2");
  put(world.etcd, "user-3");
  put(world.etcd, "user-4");
  del(world.etcd, "user-4");
  world.etcd.compact(world.etcd.revision());
  world.gate.accept();
  const Content wanted{{"user-2", "v2"}, {"user-3", "v1"}};
  CHECK(eventually([&] { return applied(log) == wanted; }));
  const auto events = log.all();
  REQUIRE(events.size() == 5);
  CHECK(events[2].type == EventType::Delete);
  CHECK(events[2].service.id == "user-1");
  for (std::size_t i = 2; i < 5; ++i) CHECK(events[i].resynced);
  world.run(world.reg.close());
}

TEST_CASE("discovery: a short break is no resync; every change comes once") {
  World world;
  EventLog log(world.pool, world.reg.watch("user-service"));
  put(world.etcd, "user-0");
  CHECK(eventually([&] { return log.size() == 1; }));
  for (int i = 1; i <= 10; ++i) {
    world.gate.cut();
    put(world.etcd, "user-" + std::to_string(i));
  }
  CHECK(eventually([&] { return log.size() == 11; }));
  std::int64_t last = 0;
  for (const auto& event : log.all()) {
    CHECK_FALSE(event.resynced);
    CHECK(event.revision > last);
    last = event.revision;
  }
  world.run(world.reg.close());
}

TEST_CASE("discovery: etcd's data is wiped and replaced") {
  World world;
  put(world.etcd, "user-1");
  put(world.etcd, "user-2");
  for (int i = 0; i < 20; ++i) world.etcd.put("other", std::to_string(i));
  EventLog log(world.pool, world.reg.watch("user-service"));
  const auto view = world.run(world.reg.subscribe("user-service"));
  CHECK(eventually([&] { return log.size() == 2; }));
  world.etcd.restart_wiped();
  put(world.etcd, "user-2", "v2");
  put(world.etcd, "user-3");
  const Content wanted{{"user-2", "v2"}, {"user-3", "v1"}};
  CHECK(eventually([&] { return applied(log) == wanted && content(view) == wanted; }, 20s));
  put(world.etcd, "user-4");
  CHECK(eventually([&] { return content(view).count("user-4") == 1; }));
  world.run(world.reg.close());
}

TEST_CASE("discovery: etcd is paused, the view says so and is right afterwards") {
  World world;
  put(world.etcd, "user-1");
  const auto view = world.run(world.reg.subscribe("user-service"));
  const auto before = view.snapshot()->as_of;
  world.etcd.pause();
  CHECK(eventually([&] { return view.snapshot()->stale; }, 20s));
  CHECK(view.snapshot()->instances.size() == 1);
  CHECK(view.snapshot()->as_of >= before);
  world.etcd.resume();
  CHECK(eventually([&] { return !view.snapshot()->stale; }, 20s));
  put(world.etcd, "user-2");
  CHECK(eventually([&] { return view.snapshot()->instances.size() == 2; }));
  world.run(world.reg.close());
}

TEST_CASE("discovery: bad values in the store are skipped, and lose nothing") {
  World world;
  put(world.etcd, "user-1");
  world.etcd.put(key_of("user-service", "broken"), "{\"id\":");
  world.etcd.put(key_of("user-service", "null"), "null");
  world.etcd.put(key_of("user-service", "deep/below"), "not an instance of it");
  EventLog log(world.pool, world.reg.watch("user-service"));
  CHECK(eventually([&] { return log.size() == 1; }));
  CHECK(world.run(world.reg.get_service("user-service")).size() == 1);
  world.etcd.put(key_of("user-service", "user-1"), "\x01\xff garbage");
  put(world.etcd, "user-2");
  CHECK(eventually([&] { return applied(log) == Content{{"user-2", "v1"}}; }));
  put(world.etcd, "user-1", "v3");
  CHECK(eventually([&] { return applied(log).size() == 2; }));
  world.run(world.reg.close());
}

TEST_CASE("discovery: 100 instances, one changes: one event, and etcd is not read") {
  World world;
  for (int i = 0; i < 100; ++i) put(world.etcd, "user-" + std::to_string(i));
  EventLog log(world.pool, world.reg.watch("user-service"));
  const auto view = world.run(world.reg.subscribe("user-service"));
  CHECK(eventually([&] { return log.size() == 100; }));
  // The server counts Range calls of everybody: this test's own are etcdctl's, none between the two readings.
  const auto reads = [&] { return world.etcd.metric("grpc_server_handled_total", "grpc_method=\"Range\""); };
  const auto before = reads();
  put(world.etcd, "user-7", "v2");
  CHECK(eventually([&] { return log.size() == 101; }));
  CHECK(eventually([&] { return content(view).at("user-7") == "v2"; }));
  CHECK(reads() == before);
  CHECK(log.all().back().service.version == "v2");
  world.run(world.reg.close());
}
