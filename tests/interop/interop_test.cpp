// The control plane on TCP serves a gRPC client of another implementation: its calls follow the service as ours do.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "interop/client.hpp"
#include "registry/facade/registry.hpp"
#include "registry/rpc/resolver.hpp"
#include "rig/eventually.hpp"
#include "rig/greeter.hpp"
#include "rig/grpc_world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;
using interop::Client;
using interop::Tally;

namespace {

/// By code and text.
using Failures = std::map<std::string, int>;

void add(Failures& failed, const Tally& tally) {
  for (const auto& [why, count] : tally.failed) failed[why] += count;
}
std::string text(const std::map<std::string, int>& counts) {
  std::string all;
  for (const auto& [what, count] : counts) all += std::to_string(count) + " x " + what + "; ";
  return all;
}

bool all_unavailable(const Tally& seen) {
  int count = 0;
  for (const auto& [why, each] : seen.failed) count += why.starts_with("14 ") ? each : 0;
  return count == seen.all;
}

/// Counts what was published, and what of it clients refused.
struct Counters : Metrics {
  void add(const registry::Metric& metric, std::string_view, double) noexcept override {
    if (metric.name == "registry_resolver_rejections_total") ++refused;
    if (metric.name == "registry_resolver_updates_total") ++updates;
  }
  std::atomic<int> refused{0}, updates{0};
};

/// Servers register in one Registry; the control plane publishes from another one.
struct OpenWorld : GrpcWorld {
  explicit OpenWorld(ResolverConfig config = ResolverConfig()) : settings(std::move(config)) {
    settings.listen = "127.0.0.1:0";
    open();
  }
  /// The control plane, from the second time on at the port that it had.
  void open() {
    outside.emplace(publishing, settings);
    settings.listen = "127.0.0.1:" + std::to_string(outside->port());
  }

  void add_to(const std::string& name, const Greeter& server,
              std::map<std::string, std::string> metadata = {}, std::string version = {}) {
    ServiceInstance made(name, server.id());
    made.endpoints = {"grpc://" + server.endpoint()};
    made.metadata = std::move(metadata);
    made.version = std::move(version);
    run(reg.register_instance(made));
  }

  /// What the control plane has seen and done, for a test that fails.
  std::string state() {
    const ServiceView view = run(publishing.subscribe(service));
    return std::to_string(view.snapshot()->instances.size()) + " instances seen, " +
           std::to_string(counters->updates) + " updates published";
  }

  std::shared_ptr<Counters> counters = std::make_shared<Counters>();
  Registry publishing{store, quick_config(), Observer(nullptr, counters)};
  ResolverConfig settings;
  std::optional<Resolver> outside;
};

/// Calls until the tally of `count` of them is as wanted. The failures of all of them are added to `failed`.
template <class Wanted>
bool becomes(Client& client, const std::string& service, int count, Failures& failed, Wanted wanted) {
  Tally last;
  const bool became = eventually(
      [&] {
        last = client.calls(service, count);
        add(failed, last);
        return wanted(last);
      },
      30s, "the calls are spread as they should");
  if (!became)
    MESSAGE("of " << count << " calls at last: " << text(last.served) << "failed: " << text(last.failed));
  return became;
}

bool near(double seen, double wanted) { return seen > wanted - 0.05 && seen < wanted + 0.05; }

}  // namespace

TEST_CASE("interop: calls spread by weight; instances come, go and drain, and no call fails") {
  OpenWorld world;
  Client client(world.outside->port());
  Greeter first("user-1"), second("user-2"), third("user-3");
  const std::string service = OpenWorld::service;
  Failures failed;

  client.begin(service, 8, true);  // nobody there yet
  CHECK(client.silent(500ms));
  world.add(first, {{"weight", "1"}});
  const Tally waited = client.end();
  INFO(world.state());
  CHECK(text(waited.failed) == "");
  CHECK(waited.by("user-1") == 8);

  world.add(second, {{"weight", "3"}});
  REQUIRE(becomes(client, service, 1000, failed, [](const Tally& seen) {
    return near(seen.share("user-1"), 0.25) && near(seen.share("user-2"), 0.75);
  }));

  const auto under_calls = [&](const auto& change) {
    client.begin(service, 1000);
    change();
    add(failed, client.end());
  };
  under_calls([&] { world.add(third, {{"weight", "4"}}); });
  REQUIRE(becomes(client, service, 1000, failed, [](const Tally& seen) {
    return near(seen.share("user-1"), 0.125) && near(seen.share("user-2"), 0.375) &&
           near(seen.share("user-3"), 0.5);
  }));
  under_calls([&] { world.change(first, {{"weight", "5"}}); });
  REQUIRE(becomes(client, service, 1000, failed, [](const Tally& seen) {
    return near(seen.share("user-1"), 5. / 12) && near(seen.share("user-3"), 4. / 12);
  }));

  under_calls([&] { world.change(second, {{"weight", "3"}, {"status", "draining"}}); });
  REQUIRE(becomes(client, service, 200, failed, [](const Tally& seen) { return seen.by("user-2") == 0; }));
  under_calls([&] { world.remove("user-1"); });
  REQUIRE(becomes(client, service, 200, failed, [](const Tally& seen) { return seen.by("user-1") == 0; }));
  first.stop(1s);  // as a server does that has said goodbye
  CHECK(client.calls(service, 500).by("user-3") == 500);
  under_calls([&] { world.change(second, {{"weight", "3"}}); });
  REQUIRE(becomes(client, service, 200, failed, [](const Tally& seen) { return seen.by("user-2") > 0; }));
  CHECK(text(failed) == "");
  CHECK(world.counters->refused == 0);
}

TEST_CASE(
    "interop: a service without instances refuses calls at once, lets those wait that want to, and comes "
    "back") {
  OpenWorld world;
  Client client(world.outside->port());
  Greeter first("user-1"), second("user-2");
  const std::string service = OpenWorld::service;

  CHECK(all_unavailable(client.calls(service, 8)));  // before it has ever had one; loads the client
  // Not by the client's own timers: 15 s for what is not answered, 10 s for servers that are not there.
  const auto began = std::chrono::steady_clock::now();
  CHECK(all_unavailable(client.calls("never-seen", 8)));
  CHECK(std::chrono::steady_clock::now() - began < 9s);

  Failures failed;
  for (int round = 0; round < 3; ++round) {
    CAPTURE(round);
    client.begin(service, 8, true);
    CHECK(client.silent(200ms));
    world.add(first);
    world.add(second);
    const Tally waited = client.end();
    INFO(world.state());
    CHECK(text(waited.failed) == "");
    REQUIRE(becomes(client, service, 100, failed,
                    [](const Tally& seen) { return seen.by("user-1") > 0 && seen.by("user-2") > 0; }));
    CHECK(text(failed) == "");

    world.remove("user-1");
    world.remove("user-2");
    Failures refused;
    REQUIRE(becomes(client, service, 50, refused, all_unavailable));
    for (const auto& [why, count] : refused) CHECK(why.substr(0, 3) == "14 ");
  }
  CHECK(world.counters->refused == 0);
}

TEST_CASE(
    "interop: versions share the calls by rule, pick first turns to the next; channels are closed and "
    "opened") {
  ResolverConfig config;
  config.services["canary"].version_shares = {{"v1", 80}, {"v2", 20}};
  config.services["single"].balancing = Balancing::PickFirst;
  OpenWorld world(config);
  Client client(world.outside->port());
  Greeter first("user-1"), second("user-2");
  Failures failed;

  world.add_to("canary", first, {}, "v1");
  REQUIRE(becomes(client, "canary", 50, failed, [](const Tally& seen) { return seen.by("user-1") == 50; }));
  world.add_to("canary", second, {}, "v2");
  const auto shared = [](const Tally& seen) {
    return near(seen.share("user-1"), 0.8) && near(seen.share("user-2"), 0.2);
  };
  REQUIRE(becomes(client, "canary", 1000, failed, shared));
  client.begin("canary", 500);
  world.remove("user-2");
  add(failed, client.end());
  REQUIRE(becomes(client, "canary", 200, failed, [](const Tally& seen) { return seen.by("user-1") == 200; }));
  world.add_to("canary", second, {}, "v2");
  REQUIRE(becomes(client, "canary", 1000, failed, shared));
  // Whatever the control plane does: grpc-go's calls choose the cluster of a new version an instant before its balancer knows it,
  // and what grpc-js tells its balancers waits for the endpoints of the clusters that the route names, but holds those of versions
  // that come and go as well, without endpoints.
  failed.erase(R"(14 unknown cluster selected for RPC: "cluster:canary/v2")");
  failed.erase("14 Cluster canary/v2 resolution failed: undefined");
  CHECK(text(failed) == "");

  Greeter third("single-1"), fourth("single-2");
  world.add_to("single", third);
  world.add_to("single", fourth);
  client.begin("single", 50, true);
  const Tally at_first = client.end();
  CHECK(text(at_first.failed) == "");
  Failures lost;  // calls may fail on a server that dies
  std::string chosen;
  REQUIRE(becomes(client, "single", 100, lost, [&](const Tally& seen) {
    if (seen.served.size() == 1) chosen = seen.served.begin()->first;
    return seen.by(chosen) == 100;
  }));
  Greeter& gone = chosen == "single-1" ? third : fourth;
  Greeter& other = chosen == "single-1" ? fourth : third;
  gone.stop();
  REQUIRE(
      becomes(client, "single", 100, lost, [&](const Tally& seen) { return seen.by(other.id()) == 100; }));

  client.close("single");  // "canary" stays, on the same stream
  REQUIRE(
      becomes(client, "single", 100, lost, [&](const Tally& seen) { return seen.by(other.id()) == 100; }));
  client.close("single");
  client.close("canary");
  REQUIRE(becomes(client, "canary", 1000, failed, shared));
  CHECK(text(failed) == "");
  CHECK(world.counters->refused == 0);
}

TEST_CASE("interop: while the control plane is away calls go on; when it is back the client follows again") {
  OpenWorld world;
  Client client(world.outside->port());
  Greeter first("user-1"), second("user-2");
  const std::string service = OpenWorld::service;
  Failures failed;
  world.add(first);
  REQUIRE(becomes(client, service, 50, failed, [](const Tally& seen) { return seen.by("user-1") == 50; }));
  client.begin(service, 500);
  world.outside.reset();
  CHECK(client.end().by("user-1") == 500);
  world.add(second);
  CHECK(client.calls(service, 100).by("user-1") == 100);
  client.begin(service, 500);
  world.open();
  add(failed, client.end());
  REQUIRE(becomes(client, service, 100, failed,
                  [](const Tally& seen) { return seen.by("user-1") > 20 && seen.by("user-2") > 20; }));
  world.remove("user-1");
  REQUIRE(becomes(client, service, 100, failed, [](const Tally& seen) { return seen.by("user-2") == 100; }));
  CHECK(text(failed) == "");
  CHECK(world.counters->refused == 0);
}
