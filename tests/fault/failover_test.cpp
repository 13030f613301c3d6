// Which member of a cluster is talked to while members fail and come back; and a registration that is held
// through all of it.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "rig/cluster_world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto load = 2000ms;  // what a loaded machine may add to a bound

const std::string key = key_of("user-service", "user-1");

std::chrono::milliseconds since(Clock::time_point start) {
  return std::chrono::ceil<std::chrono::milliseconds>(Clock::now() - start);
}

bool reads(ClusterWorld& world) {
  world.run(world.reg.get_service("user-service"));
  return true;
}

}  // namespace

TEST_CASE("failover: the member in use is killed: calls and watches go to another one within 1 s") {
  ClusterWorld world{RegistryConfig()};
  const auto victim = world.in_use_as_follower();
  Traffic traffic(world, victim);
  const auto start = Clock::now();
  world.cluster[victim].kill();
  CHECK(reads(world));
  CHECK(since(start) <= 1s + load);
  CHECK(longest_silence(traffic.log, traffic.more(20)) <= 1s + load);
  CHECK(world.in_use() != victim);
  world.run(world.reg.close());
}

TEST_CASE(
    "failover: the member in use is killed again and again: each time the watch is resumed within 1 s") {
  // What the last outage has left behind, backoffs and the like, must not make the next one longer.
  ClusterWorld world{RegistryConfig()};
  for (int round = 0; round < 3; ++round) {
    const auto victim = world.in_use_as_follower();
    Registry reg(world.store, RegistryConfig(), observer());
    Traffic traffic(world, victim, reg);
    world.cluster[victim].kill();
    CHECK(longest_silence(traffic.log, traffic.more(10)) <= 1s + load);
    CHECK(traffic.difference() == "");
    world.run(reg.close());
    world.cluster[victim].restart();
  }
}

TEST_CASE("failover: the endpoint in use swallows everything: left within the time that a renewal is given") {
  ClusterWorld world{RegistryConfig()};
  const auto victim = world.in_use();
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 6s));
  world.gates[victim]->swallow();
  const auto start = Clock::now();
  const auto left = [&] {
    for (std::size_t i = 0; i < 3; ++i) {
      if (i != victim && world.gates[i]->bytes_down() > 0) return true;
    }
    return false;
  };
  CHECK(eventually(left, "another endpoint answers"));
  // The renewal that is due every third of the TTL, 10 % later for its jitter; its answer has another third,
  // at most 2 s. Pings would need 8 s.
  CHECK(since(start) <= 2200ms + 2000ms + load);
  CHECK(world.in_use() != victim);
  world.run(world.reg.close());
}

TEST_CASE("failover: a healthy endpoint is not abandoned while the others flap") {
  ClusterWorld world;
  const auto healthy = world.in_use_as_leader();
  const std::array flapping{(healthy + 1) % 3, (healthy + 2) % 3};
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 2s));
  Traffic traffic(world, flapping[0]);
  const auto accepted = [&](std::size_t i) { return world.gates[i]->accepted_total(); };
  std::array<std::uint64_t, 3> before{};
  for (std::size_t i = 0; i < 3; ++i) before[i] = accepted(i);
  for (int round = 0; round < 4; ++round) {
    for (const auto i : flapping) {
      world.gates[i]->refuse();
      world.cluster[i].pause();
      CHECK(holds_for(200ms, [&] { return reads(world); }));
      world.cluster[i].resume();
      world.gates[i]->pass();
      world.gates[i]->swallow();
      CHECK(holds_for(200ms, [&] { return reads(world); }));
      world.gates[i]->pass();
    }
  }
  for (std::size_t i = 0; i < 3; ++i) CHECK(accepted(i) == before[i]);
  CHECK(world.in_use() == healthy);
  CHECK(traffic.difference() == "");
  world.run(world.reg.close());
}

TEST_CASE("failover: an endpoint that comes back is used again, after the one now in use fails") {
  ClusterWorld world;
  const auto first = world.in_use();
  const auto others = std::array{(first + 1) % 3, (first + 2) % 3};
  const auto view = world.run(world.reg.subscribe("user-service"));
  world.cluster[first].kill();
  CHECK(eventually([&] { return reads(world); }, "reads elsewhere"));
  const auto second = world.in_use();
  CHECK(second != first);
  world.cluster[first].restart();
  CHECK(holds_for(1s, [&] { return world.in_use() == second; }));  // no way back without a need
  for (const auto i : others) world.gates[i]->refuse();
  const auto start = Clock::now();
  CHECK(eventually([&] { return world.in_use() == first; }, "the first is in use again"));
  CHECK(since(start) <= 1s + load);
  RawEtcd(world.direct()).put(key, encode(instance("user-service", "user-1")));
  CHECK(eventually([&] { return view.snapshot()->instances.size() == 1; }, "the view follows"));
  for (const auto i : others) world.gates[i]->accept();
  CHECK(holds_for(500ms, [&] { return world.in_use() == first; }));
  world.run(world.reg.close());
}

namespace {

/// When a key was there, to the millisecond: an oracle at each member, and the first that tells counts. They
/// do not stand in for each other, so while one member is away the others tell at once.
class Presence {
 public:
  explicit Presence(Cluster& cluster) {
    for (const auto& endpoint : cluster.endpoints())
      oracles_.push_back(std::make_unique<Oracle>(std::vector{endpoint}, "/genesis/services/"));
    thread_ = quiet_thread([this] {
      while (!stop_) {
        look();
        std::this_thread::sleep_for(5ms);
      }
    });
  }
  ~Presence() { stop(); }
  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

  struct Seen {
    RawEvent event;
    Clock::time_point at;
  };
  /// In the order of the store. Waits until every oracle knows all of it.
  std::vector<Seen> finish() {
    for (auto& oracle : oracles_) oracle->finish();
    stop();
    look();
    std::vector<Seen> all;
    for (const auto& [revision, seen] : seen_) {
      if (seen.event.key.find("~mark-") == std::string::npos) all.push_back(seen);  // of the other oracles
    }
    return all;
  }

 private:
  void look() {
    const auto now = Clock::now();
    for (auto& oracle : oracles_) {
      for (auto& event : oracle->events()) seen_.try_emplace(event.mod_revision, Seen{event, now});
    }
  }

  std::vector<std::unique_ptr<Oracle>> oracles_;
  std::map<std::int64_t, Seen> seen_;  // a revision has one event here: every transaction has one key
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace

TEST_CASE(
    "failover: a registration held through a leader change, a paused leader, and a restart of each of three "
    "members in turn is never absent from the store for longer than its TTL, and never twice") {
  constexpr auto ttl = 5s;
  ClusterWorld world{RegistryConfig()};
  auto& cluster = world.cluster;
  Presence presence(cluster);
  RegistrationLog log(world.pool, world.reg.registration_events());
  const auto held = world.run(world.reg.register_instance(instance("user-service", "user-1"), ttl));
  CHECK(held.ttl == ttl);

  cluster.move_leader(cluster.follower());
  const auto paused = world.in_use_as_leader();
  cluster[paused].pause();
  std::this_thread::sleep_for(3s);
  cluster[paused].resume();
  cluster.wait_ready();
  for (std::size_t i = 0; i < cluster.size(); ++i) {
    cluster[i].restart();
    cluster.wait_ready();
  }
  // It is held now: nothing but renewals keeps it until the TTL is over.
  RawEtcd etcd(world.direct());
  CHECK(holds_for(ttl + 1s, [&] { return etcd.list(key).size() == 1; }));

  const auto leases = etcd.leases();
  CHECK(leases.size() == 1);  // no second claim is alive
  world.run(world.reg.close());
  CHECK(etcd.list("/genesis/services/").empty());
  const auto seen = presence.finish();
  REQUIRE(seen.size() >= 2);
  CHECK(seen.front().event.mod_revision == held.revision);
  CHECK(seen.back().event.deleted);  // by close()
  bool there = false;
  Clock::duration absent{0};
  for (std::size_t i = 0; i < seen.size(); ++i) {
    CHECK(seen[i].event.key == key);
    if (i > 0 && !there) absent = std::max(absent, seen[i].at - seen[i - 1].at);
    // Not deleted twice, and not put again by a second claim while the first still holds.
    CHECK(seen[i].event.deleted == there);
    there = !seen[i].event.deleted;
  }
  MESSAGE("absent for " << std::chrono::ceil<std::chrono::milliseconds>(absent).count() << " ms at most, "
                        << log.size() << " registration events");
  CHECK(absent <= ttl);
  // One member at a time is no reason to lose a lease at all.
  CHECK(seen.size() == 2);
}
