// Clusters of three through their faults, as the acceptance table of the etcd semantics has them: watches and
// leases move on, nothing is lost. W: watches, L: leases, R: reads and connections, A: authentication.
#include <doctest/doctest.h>

#include <chrono>
#include <future>
#include <ostream>
#include <set>
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

etcd::ConnectorConfig quick_pings() {
  auto settings = connector_config("");
  settings.ping_timeout = 500ms;
  return settings;
}

bool is_3_4(Etcd& member) { return member.metric("etcd_server_version", "server_version=\"3.4.") == 1; }

/// The lease of the one key of the service; 0 when it is not there.
std::int64_t lease_of_key(RawEtcd& etcd) {
  const auto found = etcd.list(key);
  return found.size() == 1 ? found.front().lease : 0;
}

bool is_stale(const ServiceView& view) { return view.snapshot()->stale; }

/// Until the view says so; the time it took.
std::chrono::milliseconds until_stale(const ServiceView& view) {
  const auto start = Clock::now();
  CHECK(eventually([&] { return is_stale(view); }, "the view is stale"));
  return since(start);
}

/// Quorum goes away under the member that is left, and comes back.
void lose_quorum(ClusterWorld& world, std::size_t left) {
  Traffic traffic(world, (left + 1) % 3);
  const auto view = world.run(world.reg.subscribe("user-service"));
  REQUIRE(world.in_use() == left);
  CHECK_FALSE(is_stale(view));
  const auto others = {(left + 1) % 3, (left + 2) % 3};
  for (const auto i : others) world.cluster[i].pause();
  CHECK(until_stale(view) <= 5s + load);
  CHECK(view.snapshot()->instances.size() > 0);  // last known good
  for (const auto i : others) world.cluster[i].resume();
  CHECK(eventually([&] { return !is_stale(view); }, "the view is fresh again"));
  CHECK(eventually(traffic.more(20), "events flow again"));
  CHECK(traffic.difference() == "");
  world.run(world.reg.close());
}

}  // namespace

TEST_CASE("W7: a follower loses its leader and the quorum: noticed within 5 s, resumed when they are back") {
  ClusterWorld world;
  lose_quorum(world, world.in_use_as_follower());
}

TEST_CASE("W7: a leader loses its quorum: noticed within 5 s, resumed when it is back") {
  ClusterWorld world;
  lose_quorum(world, world.in_use_as_leader());
}

TEST_CASE("W7: only the member in use is parted from its leader: on a healthy one within 5 s + 1 s") {
  Members members([](std::size_t, EtcdOptions&) {});
  Gates gates;
  for (std::size_t i = 0; i < 3; ++i) gates.push_back(std::make_unique<Gate>(members[i].endpoint()));
  const auto leads = members.leader();
  const auto parted = (leads + 1) % 3;
  // One endpoint first, the others once it is in use: which one a Connector begins with is drawn.
  for (std::size_t i = 0; i < 3; ++i) {
    if (i != parted) gates[i]->refuse();
  }
  asio::thread_pool pool{2};
  etcd::Connector store(pool.get_executor(), ClusterWorld::through(gates, connector_config("")), observer());
  Registry reg(store, RegistryConfig(), observer());
  EventLog log(pool, reg.watch("user-service"));
  RawEtcd writer({members[leads].endpoint(), members[(parted + 1) % 3].endpoint()});
  const auto put = [&](const std::string& id) {
    const auto value = encode(instance("user-service", id));
    return eventually([&] { return writer.put(key_of("user-service", id), value).has_value(); }, id);
  };
  REQUIRE(put("before"));
  REQUIRE(eventually([&] { return log.size() == 1; }, "the watch runs"));
  REQUIRE(gates[parted]->connections() == 1);
  for (const auto& gate : gates) gate->accept();

  const auto start = Clock::now();
  members.part(parted);
  REQUIRE(put("after"));
  CHECK(eventually([&] { return log.size() == 2; }, "the watch has moved"));
  CHECK(since(start) <= 6s + load);
  // It stays where it is well when the others are, too.
  members.heal();
  members.wait_ready();
  const auto accepted = [&] {
    std::uint64_t all = 0;
    for (const auto& gate : gates) all += gate->accepted_total();
    return all;
  };
  const auto settled = accepted();
  REQUIRE(put("healed"));
  CHECK(eventually([&] { return log.size() == 3; }, "the watch goes on"));
  CHECK(holds_for(500ms, [&] { return accepted() == settled; }));
  for (const auto& event : log.all()) CHECK_FALSE(event.resynced);
  rig::run(pool, reg.close());
}

TEST_CASE(
    "W8: the endpoint in use swallows everything: another one within ping_interval + ping_timeout + 1 s") {
  const auto settings = quick_pings();
  ClusterWorld world(RegistryConfig{}, Cluster::quick(), settings);
  const auto victim = world.in_use();
  Traffic traffic(world, victim);
  world.gates[victim]->swallow();
  const auto silence = longest_silence(traffic.log, traffic.more(20));
  CHECK(silence <= settings.ping_interval + settings.ping_timeout + 1s + load);
  CHECK(traffic.difference() == "");
  world.run(world.reg.close());
}

TEST_CASE("W9: the member in use is killed: another one within 1 s") {
  // 1 s also with a tenth of a long retry_interval: the first break of a healthy watch is no reason to wait.
  RegistryConfig patient;
  patient.retry_interval = 10s;
  for (const auto& config : {RegistryConfig(), patient}) {
    ClusterWorld world(config);
    const auto victim = world.in_use_as_follower();
    Traffic traffic(world, victim);
    world.cluster[victim].kill();
    CHECK(longest_silence(traffic.log, traffic.more(20)) <= 1s + load);
    CHECK(traffic.difference() == "");
    world.run(world.reg.close());
  }
}

TEST_CASE("W9: the member in use leads and is killed: nothing is lost through the election") {
  ClusterWorld world{RegistryConfig()};
  const auto victim = world.in_use_as_leader();
  Traffic traffic(world, victim);
  world.cluster[victim].kill();
  // 1 s, and 1 s for an election, during which a watch may be refused: then another step of the backoff.
  CHECK(longest_silence(traffic.log, traffic.more(20)) <= 3s + load);
  // A follower that is behind what we have seen is listed again: then states may be skipped, and it is said so.
  const std::string difference = traffic.difference();
  const auto events = traffic.log.all();
  const bool marked =
      std::any_of(events.begin(), events.end(), [](const auto& event) { return event.resynced; });
  CHECK((difference == "" || marked));
  world.run(world.reg.close());
}

TEST_CASE("W9: the member in use is terminated: another one at once on etcd 3.4; within 8 s on 3.5") {
  ClusterWorld world{RegistryConfig()};
  const auto victim = world.in_use_as_follower();
  Traffic traffic(world, victim);
  const auto bound = is_3_4(world.cluster[victim]) ? 1s : 8s;
  const auto start = Clock::now();
  world.cluster[victim].terminate(false);
  const auto moved = [&, more = traffic.more(20)] { return !world.cluster[victim].running() && more(); };
  CHECK(longest_silence(traffic.log, moved) <= bound + load);
  MESSAGE("the member was gone and the watch elsewhere after " << since(start).count() << " ms");
  CHECK(traffic.difference() == "");
  world.run(world.reg.close());
}

namespace {

/// A registration with a TTL of 5 s, watched over from beside the gates.
struct Held {
  explicit Held(ClusterWorld& in, std::chrono::seconds ttl = 5s)
      : world(in),
        log(in.pool, in.reg.registration_events()),
        registration(in.run(in.reg.register_instance(instance("user-service", "user-1"), ttl))),
        oracle(in.direct(), "/genesis/services/"),
        etcd(in.direct()) {}

  /// Never absent, never written again, under the same lease, and nobody was told otherwise.
  void check_untouched() {
    CHECK(oracle.finish() == std::vector<RawEvent>());
    CHECK(lease_of_key(etcd) == registration.lease);
    CHECK(log.size() == 1);
  }
  void stays(std::chrono::milliseconds time) {
    CHECK(holds_for(time, [&] { return lease_of_key(etcd) == registration.lease; }));
    check_untouched();
  }
  /// Renewals that the members have answered. No faults of processes meanwhile.
  double renewals() {
    double all = 0;
    for (std::size_t i = 0; i < world.cluster.size(); ++i)
      all += world.cluster[i].metric("grpc_server_msg_sent_total", "grpc_method=\"LeaseKeepAlive\"");
    return all;
  }

  ClusterWorld& world;
  RegistrationLog log;
  Registration registration;
  Oracle oracle;
  RawEtcd etcd;
};

}  // namespace

TEST_CASE("L1: renewals vanish in a black hole and the lease survives: another endpoint before the TTL") {
  ClusterWorld world;
  Held held(world);
  const auto victim = world.in_use();
  const auto before = held.renewals();
  world.gates[victim]->swallow();
  held.stays(7s);
  // At most a third of the TTL apart, but for the one that had to move on.
  CHECK(held.renewals() - before >= 3);
  world.run(world.reg.close());
}

TEST_CASE("L1: renewals are refused and the lease survives: elsewhere; or later, should the way heal") {
  ClusterWorld world;
  Held held(world);
  world.gates[world.in_use()]->refuse();
  held.stays(5500ms);
  for (const auto& gate : world.gates) gate->refuse();
  std::this_thread::sleep_for(1s);
  for (const auto& gate : world.gates) gate->accept();
  held.stays(4500ms);
  world.run(world.reg.close());
}

TEST_CASE("L6: the leader stands still for 6 s: no lease of 10 s is lost") {
  ClusterWorld world;
  Held held(world, 10s);
  // What the pause hits twice over: it leads, and it is ours. Without an answer the registration would call
  // its lease lost 9 s after it sent the last renewal, which is at most 3.7 s old.
  const auto victim = world.in_use_as_leader();
  world.cluster[victim].pause();
  const auto paused = Clock::now();
  const auto leader = world.cluster.leader();
  CHECK(leader != victim);
  CHECK(holds_for(6s - since(paused), [&] { return held.log.size() == 1; }));
  world.cluster[victim].resume();
  world.cluster.wait_ready();
  held.stays(1s);
  world.run(world.reg.close());
}

namespace {

/// Reads again and again until told to stop: how many, the slowest, and what failed.
struct Reader {
  explicit Reader(ClusterWorld& world)
      : done(std::async(std::launch::async, [this, &world] {
          while (!stop) {
            const auto start = Clock::now();
            try {
              const auto found = world.run(world.reg.get_service("user-service"));
              const auto names = world.run(world.reg.list_services());
              if (found.size() != 1 || names.size() != 1) failure = "wrong result";
            } catch (const std::exception& error) {
              failure = error.what();
            }
            slowest = std::max(slowest, since(start));
            ++reads;
          }
        })) {}
  ~Reader() { stop = true; }

  /// No other call between: the members are read through the metrics only.
  void finish(std::chrono::milliseconds bound) {
    const auto until = reads + 3;
    CHECK(eventually([&] { return reads >= until; }, "reads go on"));
    stop = true;
    done.get();
    CHECK(failure == "");
    CHECK(slowest <= bound);
    MESSAGE(reads.load() << " rounds of reads, the slowest " << slowest.count() << " ms");
  }

  std::atomic<bool> stop = false;
  std::atomic<int> reads = 0;
  std::chrono::milliseconds slowest{0};
  std::string failure;
  std::future<void> done;
};

}  // namespace

TEST_CASE("R2: get_service and list_services succeed within request_timeout while the leader is killed") {
  ClusterWorld world;
  RawEtcd(world.direct()).put(key, encode(instance("user-service", "user-1")));
  const auto victim = world.in_use_as_leader();
  Reader reader(world);
  world.cluster[victim].kill();
  world.cluster.leader();
  reader.finish(2 * 3s + load);  // two calls, 3 s each
  world.run(world.reg.close());
}

TEST_CASE("R2: get_service and list_services succeed within request_timeout while leaders stand still") {
  ClusterWorld world;
  RawEtcd(world.direct()).put(key, encode(instance("user-service", "user-1")));
  const auto victim = world.in_use_as_leader();
  Reader reader(world);
  world.cluster.move_leader((victim + 1) % 3);
  world.cluster.move_leader(victim);
  world.cluster[victim].pause();
  world.cluster.leader();
  std::this_thread::sleep_for(1s);
  world.cluster[victim].resume();
  world.cluster.wait_ready();
  reader.finish(2 * 3s + load);
  world.run(world.reg.close());
}

TEST_CASE("A2: failover to another member after the token has run out there: one authentication") {
  auto options = Cluster::quick();
  options.auth_token_ttl = 2s;
  options.root_password = "r";
  options.users = {{"svc", "pw", "/genesis/"}};
  auto settings = connector_config("");
  settings.username = "svc";
  settings.password = "pw";
  ClusterWorld world(quick_config(), options, settings);
  const auto authentications = [&] {
    std::vector<int> at;
    for (std::size_t i = 0; i < 3; ++i) {
      at.push_back(static_cast<int>(
          world.cluster[i].metric("grpc_server_handled_total", "grpc_method=\"Authenticate\"")));
    }
    return at;
  };
  // On a slow machine a call may turn to a third member; that one, too, is told our password once.
  const auto check_once = [&](const std::vector<int>& before, std::size_t there) {
    const auto after = authentications();
    CHECK(after[there] - before[there] == 1);
    for (std::size_t i = 0; i < 3; ++i) CHECK(after[i] - before[i] <= 1);
  };
  // Through the connector itself, and so with its token.
  const auto put = [&](const std::string& id) {
    etcdpb::PutRequest request;
    request.set_key(key_of("user-service", id));
    request.set_value(encode(instance("user-service", id)));
    world.run(world.store.put(std::move(request)));
  };
  const auto use_for = [&](std::chrono::milliseconds time) {
    return holds_for(time, [&] { return world.run(world.reg.get_service("user-service")).size() >= 1; });
  };
  // Many at once, beside the watch that moves, too.
  const auto use_at_once = [&] {
    std::vector<std::future<std::size_t>> all;
    for (int i = 0; i < 8; ++i) {
      all.push_back(std::async(std::launch::async,
                               [&] { return world.run(world.reg.get_service("user-service")).size(); }));
    }
    for (auto& each : all) CHECK(each.get() >= 1);
  };

  const auto first = world.in_use();
  put("user-1");
  EventLog log(world.pool, world.reg.watch("user-service"));
  REQUIRE(eventually([&] { return log.size() == 1; }, "the watch runs"));
  // In use, a token lives on at this member and runs out at the others.
  const auto at_first = authentications();
  CHECK(use_for(3500ms));
  CHECK(authentications() == at_first);

  world.gates[first]->refuse();
  use_at_once();
  put("user-2");
  CHECK(eventually([&] { return log.size() == 2; }, "the watch has moved"));
  const auto second = world.in_use();
  CHECK(second != first);
  check_once(at_first, second);

  // Back to the first, where we still have a token that runs out meanwhile.
  world.gates[first]->accept();
  const auto at_second = authentications();
  CHECK(use_for(3500ms));
  CHECK(authentications() == at_second);
  for (std::size_t i = 0; i < 3; ++i) {
    if (i != first) world.gates[i]->refuse();
  }
  use_at_once();
  put("user-3");
  CHECK(eventually([&] { return log.size() == 3; }, "the watch has moved back"));
  CHECK(world.in_use() == first);
  check_once(at_second, first);
  world.run(world.reg.close());
}

namespace {

/// Kills whoever serves, until every member has.
void serve_in_turn(Members& members, etcd::ConnectorConfig settings) {
  asio::thread_pool pool{2};
  etcd::Connector store(pool.get_executor(), std::move(settings), observer());
  rig::run(pool, store.connect());
  const auto reads = [&](std::size_t i) {
    return members[i].running() ? members[i].metric("grpc_server_started_total", "grpc_method=\"Range\"") : 0;
  };
  std::set<std::size_t> served;
  std::optional<std::size_t> down;
  for (int round = 0; round < 3; ++round) {
    std::vector<double> before;
    for (std::size_t i = 0; i < members.size(); ++i) before.push_back(reads(i));
    etcdpb::RangeRequest request;
    request.set_key("/genesis/");
    rig::run(pool, store.range(request));
    if (down) {
      members[*down].start();
      members.wait_ready();
      before[*down] = reads(*down);
    }
    for (std::size_t i = 0; i < members.size(); ++i) {
      if (reads(i) == before[i]) continue;
      served.insert(i);
      down = i;
    }
    REQUIRE(down);
    members[*down].kill();
  }
  CHECK(served.size() == members.size());
  rig::run(pool, store.close());
}

}  // namespace

TEST_CASE("R5: TLS with a certificate for each member under its own name: all of them serve in turn") {
  const Certs certs;
  const std::vector<Port> ports(3);
  auto settings = connector_config("");
  settings.endpoints.clear();
  for (std::size_t i = 0; i < 3; ++i)
    settings.endpoints.push_back("127.0.0." + std::to_string(i + 1) + ":" +
                                 std::to_string(ports[i].number()));
  Members members([&](std::size_t i, EtcdOptions& options) {
    options.tls = certs.issue("member-" + std::to_string(i), {"IP:127.0.0." + std::to_string(i + 1)});
    options.flags.push_back("--listen-client-urls=https://" + settings.endpoints[i]);
    options.flags.push_back("--advertise-client-urls=https://" + settings.endpoints[i]);
  });
  settings.tls.emplace();
  settings.tls->ca_file = certs.ca;
  // The names are looked at: under another's address a member is none of ours.
  auto misled = settings;
  misled.endpoints = {"localhost:" + std::to_string(ports[0].number())};
  asio::thread_pool pool{1};
  etcd::Connector store(pool.get_executor(), misled, observer());
  CHECK(rig::run(pool, code_of(store.connect())) != std::error_code());
  serve_in_turn(members, settings);
}

TEST_CASE("R5: TLS with one name in the certificates of all members: all of them serve in turn") {
  const Certs certs;
  Members members([&](std::size_t i, EtcdOptions& options) {
    options.tls = certs.issue("member-" + std::to_string(i), {"DNS:etcd.example"});
  });
  auto settings = connector_config("");
  settings.endpoints.clear();
  for (std::size_t i = 0; i < 3; ++i) settings.endpoints.push_back(members[i].endpoint());
  settings.tls.emplace();
  settings.tls->ca_file = certs.ca;
  settings.tls->server_name = "etcd.example";
  serve_in_turn(members, settings);
}
