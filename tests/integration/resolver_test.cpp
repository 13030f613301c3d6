// Ordinary gRPC channels and stubs follow a service: real servers come, go, drain and change weight, and calls go
// where they should.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "registry/rpc/bootstrap.hpp"
#include "rig/gate.hpp"
#include "rig/grpc_world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

/// Calls until `wanted` holds for the spread of some calls in a row.
template <class Wanted>
bool spreads(greeter::Greeter::StubInterface& stub, int calls, Wanted wanted) {
  return eventually([&] { return wanted(spread(stub, calls)); }, 10s, "the calls are spread as they should");
}

ResolverConfig with_rule(ServiceRule rule) {
  ResolverConfig config;
  config.services[GrpcWorld::service] = std::move(rule);
  return config;
}

}  // namespace

TEST_CASE("resolver: three servers share the calls; one comes, one goes, no call fails") {
  GrpcWorld world;
  Greeter first("user-1"), second("user-2"), third("user-3");
  world.add(first);
  world.add(second);
  const GreeterStub stub = world.stub(2);
  CHECK(spreads(*stub, 20, [](const Spread& seen) {
    return seen == Spread{{"user-1", 10}, {"user-2", 10}};
  }));
  world.add(third);
  CHECK(spreads(*stub, 30, [](const Spread& seen) {
    return seen == Spread{{"user-1", 10}, {"user-2", 10}, {"user-3", 10}};
  }));
  world.remove("user-1");
  CHECK(eventually([&] { return !spread(*stub, 10).contains("user-1"); }));
  first.stop(1s);
  CHECK(spread(*stub, 20) == Spread{{"user-2", 10}, {"user-3", 10}});
  world.run(world.reg.close());
}

TEST_CASE("resolver: target() takes a name and both etcd URIs; every kind of channel follows") {
  GrpcWorld world;
  Greeter server("user-1");
  world.add(server);
  const std::string target = world.resolver.target("user-service");
  CHECK(target.starts_with("xds:///"));
  CHECK(world.resolver.target("etcd://user-service") == target);
  CHECK(world.resolver.target("etcd:///user-service") == target);
  const auto plain =
      greeter::Greeter::NewStub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()));
  CHECK(hello(*plain).served_by == "user-1");
  const auto custom = greeter::Greeter::NewStub(grpc::CreateCustomChannel(
      target, grpc::InsecureChannelCredentials(), world.resolver.channel_arguments()));
  CHECK(hello(*custom).served_by == "user-1");
  for (const char* bad : {"", "a/b", "etcd://", "etcd:///a/b"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(world.resolver.target(bad), std::system_error);
  }
}

TEST_CASE("resolver: get_connection shares channels by name and credentials; its errors name the cause") {
  GrpcWorld world;
  Greeter server("user-1");
  world.add(server);
  const auto credentials = grpc::InsecureChannelCredentials();
  const auto one = world.run(world.resolver.get_connection("user-service", credentials));
  const auto two = world.run(world.resolver.get_connection("etcd:///user-service", credentials));
  CHECK(one == two);
  CHECK(one != world.run(world.resolver.get_connection("user-service", grpc::InsecureChannelCredentials())));
  const auto text = world.run(text_of(world.resolver.get_connection("user-service", nullptr)));
  CHECK(text.find("credentials") != std::string::npos);

  ConnectionOptions many;
  many.at_least = 2;
  many.timeout = 100ms;
  const auto late = world.run(text_of(world.resolver.get_connection("user-service", credentials, many)));
  CAPTURE(late);
  CHECK(late.find("1 of 2") != std::string::npos);

  many.at_least = 501;
  const auto never = world.run(text_of(world.resolver.get_connection("user-service", credentials, many)));
  CHECK(never.find("at_least = 501: use at most max_endpoints (500)") != std::string::npos);

  world.store.set_unavailable(true);
  ConnectionOptions soon;
  soon.timeout = 300ms;
  const auto code = world.run(code_of(world.resolver.get_connection("other-service", credentials, soon)));
  CHECK(code);
  CHECK(is_retryable(code));
  world.store.set_unavailable(false);
  CHECK(world.run(world.resolver.get_connection("other-service", credentials)));

  // Nothing comes of a closed Registry, however long the caller would wait.
  world.run(world.reg.close());
  ConnectionOptions patient;
  patient.timeout = 24h;
  const auto over = world.run(code_of(world.resolver.get_connection("new-service", credentials, patient)));
  CHECK(over == errc::closed);
}

TEST_CASE("resolver: weights within 5 %, and they change in operation") {
  GrpcWorld world;
  Greeter light("user-1"), heavy("user-2");
  world.add(light, {{"weight", "1"}});
  world.add(heavy, {{"weight", "3"}});
  const GreeterStub stub = world.stub(2);
  const auto near = [](int seen, int of, double share) {
    return seen > of * (share - 0.05) && seen < of * (share + 0.05);
  };
  CHECK(spreads(*stub, 2000,
                [&](Spread seen) { return near(seen["user-2"], 2000, 0.75) && !seen.contains(""); }));
  world.change(light, {{"weight", "9"}});
  world.change(heavy, {{"weight", "1"}});
  CHECK(spreads(*stub, 2000,
                [&](Spread seen) { return near(seen["user-1"], 2000, 0.9) && !seen.contains(""); }));
}

TEST_CASE("resolver: disabled and draining instances and the weight 0 get no calls, until they are back") {
  GrpcWorld world;
  Greeter first("user-1"), second("user-2");
  world.add(first);
  world.add(second);
  const GreeterStub stub = world.stub(2);
  for (const std::map<std::string, std::string>& out :
       {std::map<std::string, std::string>{{"status", "disabled"}},
        {{"status", "draining"}},
        {{"weight", "0"}}}) {
    world.change(first, out);
    CHECK(spreads(*stub, 10, [](const Spread& seen) { return seen == Spread{{"user-2", 10}}; }));
    world.change(first, {});
    CHECK(spreads(*stub, 10, [](const Spread& seen) { return seen.size() == 2 && !seen.contains(""); }));
  }
}

// gRPC takes up what it knew under the name of a locality. The new instance cannot be reached, so all calls are the
// light one's, however long that lasts.
TEST_CASE("resolver: one that was taken out gets no call when another one of its weight takes its place") {
  for (const bool at_once : {false, true}) {
    CAPTURE(at_once);
    GrpcWorld world;
    Greeter light("user-1"), heavy("user-2"), fresh("user-3");
    world.add(light, {{"weight", "1"}});
    world.add(heavy, {{"weight", "3"}});
    const GreeterStub stub = world.stub(2);
    CHECK(spreads(*stub, 20, [](const Spread& seen) { return seen.size() == 2; }));
    Gate gate(fresh.endpoint());
    gate.swallow(Way::down);
    auto instance = GrpcWorld::instance("user-2", "grpc://" + gate.endpoint(), {{"weight", "3"}});
    if (!at_once) {
      world.change(heavy, {{"weight", "3"}, {"status", "disabled"}});
      CHECK(spreads(*stub, 50, [](const Spread& seen) { return !seen.contains("user-2"); }));
      instance.id = "user-3";
      world.run(world.reg.register_instance(instance));
    } else {
      world.run(world.reg.update_instance(instance));  // it has moved
    }
    CHECK(eventually([&] { return gate.accepted_total() > 0; }, "gRPC connects to it"));
    CHECK(spreads(*stub, 50, [](const Spread& seen) { return seen == Spread{{"user-1", 50}}; }));
    CHECK(spread(*stub, 200) == Spread{{"user-1", 200}});
  }
}

TEST_CASE("resolver: a canary gets its share by version; without instances the others get it") {
  ServiceRule rule;
  rule.version_shares = {{"v1", 90}, {"v2", 10}};
  GrpcWorld world(with_rule(rule));
  Greeter old("user-1"), fresh("user-2"), other("user-3");
  world.add(old, {}, "v1");
  world.add(other, {}, "v3");
  const GreeterStub stub = world.stub(1);
  CHECK(spreads(*stub, 50, [](const Spread& seen) { return seen == Spread{{"user-1", 50}}; }));
  world.add(fresh, {}, "v2");
  CHECK(spreads(*stub, 2000, [](Spread seen) {
    return seen["user-2"] > 100 && seen["user-2"] < 300 && seen["user-1"] + seen["user-2"] == 2000;
  }));
  world.remove("user-1");
  CHECK(spreads(*stub, 50, [](const Spread& seen) { return seen == Spread{{"user-2", 50}}; }));
}

TEST_CASE("resolver: the own zone is preferred, then the region, then the rest; back when it is back") {
  ResolverConfig config;
  config.zone = "a";
  config.region = "eu";
  GrpcWorld world(config);
  Greeter here("user-1"), near("user-2"), far("user-3");
  world.add(far, {{"zone", "x"}, {"region", "us"}});
  const GreeterStub stub = world.stub(1);
  CHECK(spreads(*stub, 10, [](const Spread& seen) { return seen == Spread{{"user-3", 10}}; }));
  world.add(near, {{"zone", "b"}, {"region", "eu"}});
  CHECK(spreads(*stub, 10, [](const Spread& seen) { return seen == Spread{{"user-2", 10}}; }));
  world.add(here, {{"zone", "a"}, {"region", "eu"}});
  CHECK(spreads(*stub, 10, [](const Spread& seen) { return seen == Spread{{"user-1", 10}}; }));
  // Not deregistered: gRPC itself fails over.
  here.stop();
  CHECK(spreads(*stub, 10, [](const Spread& seen) { return seen == Spread{{"user-2", 10}}; }));
}

TEST_CASE("resolver: pick first stays with one instance and turns to the next when it fails") {
  ServiceRule rule;
  rule.balancing = Balancing::PickFirst;
  GrpcWorld world(with_rule(rule));
  std::vector<std::unique_ptr<Greeter>> servers;
  for (int i = 1; i <= 3; ++i) {
    servers.push_back(std::make_unique<Greeter>("user-" + std::to_string(i)));
    world.add(*servers.back());
  }
  const GreeterStub stub = world.stub(3);
  std::string chosen;
  CHECK(spreads(*stub, 20, [&](const Spread& seen) {
    chosen = seen.begin()->first;
    return seen.size() == 1 && !chosen.empty();
  }));
  for (const auto& server : servers) {
    if (server->id() == chosen) server->stop();
  }
  CHECK(spreads(*stub, 20, [&](const Spread& seen) {
    return seen.size() == 1 && !seen.contains("") && !seen.contains(chosen);
  }));
}

TEST_CASE("resolver: ring hash sends equal keys to the same instance, and different keys to different ones") {
  ServiceRule rule;
  rule.balancing = Balancing::RingHash;
  rule.hash_header = "user";
  if (!registry::detail::ring_hash_works(grpc::Version())) {
    MESSAGE("SKIPPED: gRPC ", grpc::Version(), " crashes with ring hash; that it is refused is checked");
    CHECK_THROWS_AS(GrpcWorld(with_rule(rule)), std::system_error);
    return;
  }
  GrpcWorld world(with_rule(rule));
  std::vector<std::unique_ptr<Greeter>> servers;
  for (int i = 1; i <= 3; ++i) {
    servers.push_back(std::make_unique<Greeter>("user-" + std::to_string(i)));
    world.add(*servers.back());
  }
  const GreeterStub stub = world.stub(3);
  std::map<std::string, std::string> owner;
  std::set<std::string> used;
  CHECK(eventually([&] { return hello(*stub, 5s, false, {{"user", "0"}}).status.ok(); }));
  for (int round = 0; round < 3; ++round) {
    for (int key = 0; key < 50; ++key) {
      const std::string text = std::to_string(key);
      const Hello made = hello(*stub, 5s, true, {{"user", text}});
      REQUIRE(made.status.ok());
      const auto& known = owner.try_emplace(text, made.served_by).first->second;
      CHECK(known == made.served_by);
      used.insert(made.served_by);
    }
  }
  CHECK(used.size() == 3);
}

TEST_CASE("resolver: which gRPC can do ring hash") {
  using registry::detail::ring_hash_works;
  CHECK_FALSE(ring_hash_works("1.51.1"));
  CHECK_FALSE(ring_hash_works("1.49.0"));
  CHECK(ring_hash_works("1.48.2"));
  CHECK(ring_hash_works("1.52.0"));
  CHECK(ring_hash_works("1.80.0-dev"));
}

TEST_CASE("resolver: two Resolvers of two Registries in one process keep their services apart") {
  GrpcWorld one, two;
  Greeter first("user-1"), second("user-2");
  one.add(first);
  two.add(second);
  const GreeterStub here = one.stub(1), there = two.stub(1);
  CHECK(spread(*here, 10) == Spread{{"user-1", 10}});
  CHECK(spread(*there, 10) == Spread{{"user-2", 10}});
  one.run(one.resolver.close());
  two.remove("user-2");
  Greeter third("user-3");
  two.add(third);
  CHECK(eventually([&] { return spread(*there, 5) == Spread{{"user-3", 5}}; }));
  CHECK(spread(*here, 10) == Spread{{"user-1", 10}});  // a closed Resolver's channels keep what they know
}

TEST_CASE("resolver: the control plane on TCP serves other channels, by plain names") {
  ResolverConfig config;
  config.listen = ":0";
  GrpcWorld world(config);
  REQUIRE(world.resolver.port() > 0);
  Greeter server("user-1");
  world.add(server);
  grpc::ChannelArguments arguments;
  arguments.SetString(registry::detail::bootstrap_argument,
                      registry::detail::bootstrap_of("127.0.0.1:" + std::to_string(world.resolver.port())));
  const auto stub = greeter::Greeter::NewStub(
      grpc::CreateCustomChannel("xds:///user-service", grpc::InsecureChannelCredentials(), arguments));
  CHECK(hello(*stub).served_by == "user-1");
  Greeter second("user-2");
  world.add(second);
  CHECK(eventually([&] { return spread(*stub, 10) == Spread{{"user-1", 5}, {"user-2", 5}}; }));

  ResolverConfig taken;
  taken.listen = "127.0.0.1:" + std::to_string(world.resolver.port());
  std::string text;
  try {
    Resolver clash(world.reg, taken);
  } catch (const std::system_error& error) {
    text = error.what();
  }
  CAPTURE(text);
  CHECK(text.find(taken.listen) != std::string::npos);
}

TEST_CASE("resolver: the socket lies in a folder that only its user can enter, gone with the last Resolver") {
  const std::string folder = registry::detail::socket_folder();
  {
    GrpcWorld world;
    struct stat found {};
    REQUIRE(::stat(folder.c_str(), &found) == 0);
    CHECK((found.st_mode & 0777) == 0700);
    { GrpcWorld another; }
    CHECK(std::filesystem::exists(folder));
  }
  CHECK_FALSE(std::filesystem::exists(folder));
  // And back with the next one, at the same place: gRPC remembers it.
  GrpcWorld again;
  Greeter server("user-1");
  again.add(server);
  CHECK(eventually([&] { return spread(*again.stub(1), 3) == Spread{{"user-1", 3}}; }, 20s));
}

TEST_CASE("resolver: bad settings are refused by name") {
  asio::thread_pool pool(1);
  MemoryStore store(pool.get_executor());
  Registry reg(store);
  const auto refusal = [&](ResolverConfig config) {
    try {
      Resolver resolver(reg, config);
    } catch (const std::system_error& error) {
      CHECK(error.code() == errc::invalid_argument);
      return std::string(error.what());
    }
    return std::string();
  };
  ResolverConfig config;
  config.max_endpoints = 0;
  CHECK(refusal(config).find("max_endpoints") != std::string::npos);
  config = ResolverConfig();
  config.max_pushes_per_second = 0;
  CHECK(refusal(config).find("max_pushes_per_second") != std::string::npos);
  config = ResolverConfig();
  config.name_refresh = 1ms;
  CHECK(refusal(config).find("name_refresh") != std::string::npos);
  config = ResolverConfig();
  config.listen = "no such host:1";
  CHECK(refusal(config).find("no such host") != std::string::npos);
  config = ResolverConfig();
  config.services["user-service"].version_shares = {{"v1", 0}};
  CHECK(refusal(config).find("services[\"user-service\"].version_shares") != std::string::npos);
}

TEST_CASE("resolver: destroyed in any order, with calls in flight, on other threads") {
  for (int order = 0; order < 4; ++order) {
    CAPTURE(order);
    auto world = std::make_unique<GrpcWorld>();
    Greeter server("user-1");
    world->add(server);
    auto stub = world->stub(1);
    std::atomic<bool> stop = false;
    std::thread caller([&] {
      while (!stop) CHECK(hello(*stub).status.ok());
    });
    auto resolver = std::make_unique<Resolver>(world->reg);
    if (order == 0) resolver.reset();
    if (order == 1) std::thread([&] { resolver.reset(); }).join();
    if (order == 2) world->run(resolver->close());
    Resolver moved = order == 3 ? std::move(*resolver) : Resolver(world->reg);
    world.reset();
    stop = true;
    caller.join();
  }
}
