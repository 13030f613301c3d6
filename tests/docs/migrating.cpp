// The code of docs/migrating.md.
#include <doctest/doctest.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "registry/registry.hpp"
#include "rig/certs.hpp"
#include "rig/etcd.hpp"
#include "rig/run.hpp"

using namespace std::chrono_literals;

TEST_CASE("docs migrating: TLS, user and password") {
  if (rig::skip_without_etcd()) return;
  const rig::Certs certs;
  rig::EtcdOptions options;
  options.tls = certs.server();
  options.root_password = "root";
  options.users = {{"svc", "secret", "/genesis/services/"}};
  const rig::Etcd server(options);
  const std::string one = server.endpoint(), two = server.endpoint(), ca_file = certs.ca;
  asio::io_context io;
  // begin: connect
  registry::etcd::ConnectorConfig config;
  // "10.0.0.1:2379", "10.0.0.2:2379": there is a channel to each, and a choice among them.
  config.endpoints = {one, two};
  config.username = "svc";
  config.password = "secret";
  config.tls.emplace();
  config.tls->ca_file = ca_file;  // cert_file and key_file beside it for mutual TLS
  registry::etcd::Connector etcd(io.get_executor(), config);
  registry::Registry reg(etcd);
  // end: connect
  rig::run(io, etcd.connect());
  CHECK(rig::run(io, reg.get_service("user-service")).empty());
}

namespace {

// begin: register
asio::awaitable<void> register_user(registry::Registry& reg) {
  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};
  co_await reg.register_instance(self, 30s);
}
// end: register

// begin: list
asio::awaitable<void> print_users(registry::Registry& reg) {
  for (const auto& instance : co_await reg.get_service("user-service"))
    std::printf("%s at %s\n", instance.id.c_str(), instance.endpoints.front().c_str());
}
// end: list

// begin: watch
asio::awaitable<void> follow_users(registry::Registry& reg) {
  auto events = reg.watch("user-service");
  while (auto event = co_await events.next()) {
    const bool there = event->type == registry::EventType::Put;
    std::printf("%s %s\n", there ? "put" : "delete", event->service.id.c_str());
  }
}  // ends with reg.close(); never by a failure of etcd
// end: watch

// begin: kv
asio::awaitable<void> some_keys_of_my_own(registry::etcd::Connector& etcd) {
  registry::etcdpb::PutRequest put;
  put.set_key("/settings/colour");
  put.set_value("blue");
  co_await etcd.put(put);

  registry::etcdpb::RangeRequest range;
  range.set_key("/settings/colour");
  const auto answer = co_await etcd.range(range);
  if (answer.kvs_size() == 1) std::printf("%s\n", answer.kvs(0).value().c_str());
}

// Compare and swap: whoever creates the key is first. The lease that it lives on ends the claim.
asio::awaitable<bool> am_first(registry::etcd::Connector& etcd, std::int64_t lease) {
  std::vector<registry::Write> writes;
  writes.emplace_back("/jobs/cleanup", "host-7", lease, 0);  // only while nobody has it: mod_revision 0
  const auto done = co_await etcd.backend()->commit(std::move(writes));
  co_return done.results.front().applied;
}
// end: kv

// begin: errors
asio::awaitable<void> what_went_wrong(registry::Registry& reg) {
  try {
    co_await reg.deregister("user-1");
  } catch (const std::system_error& error) {
    if (error.code() == registry::errc::not_registered) co_return;
    std::fprintf(stderr, "%s%s%s\n", error.what(),  // with the endpoint, the call and the id
                 registry::is_retryable(error.code()) ? ", try again" : "",
                 registry::is_indeterminate(error.code()) ? ", it may have been done" : "");
  }
}
// end: errors

}  // namespace

TEST_CASE("docs migrating: keys and values that both programs read") {
  if (rig::skip_without_etcd()) return;
  const rig::Etcd etcd;
  asio::io_context io;
  registry::etcd::ConnectorConfig config;
  config.endpoints = {etcd.endpoint()};
  registry::etcd::Connector connector(io.get_executor(), config);
  // begin: own_prefix
  registry::RegistryConfig where;
  where.name_space = "/services";  // keys are /services/<service>/<id>
  registry::Registry reg(connector, where);
  // end: own_prefix

  // etcdctl is the other program. It writes what docs/migrating.md tells it to.
  const std::int64_t lease = etcd.grant(60s);
  etcd.put("/services/user-service/user-7",
           R"({"id":"user-7","name":"user-service","endpoints":["grpc://10.0.0.7:9001"]})", lease);
  etcd.put("/services/user-service/old-style", "10.0.0.8:9001", lease);
  const auto found = rig::run(io, reg.get_service("user-service"));
  REQUIRE(found.size() == 1);  // a bare address is no instance: skipped, counted and logged
  CHECK(found.front().id == "user-7");
  CHECK(found.front().endpoints.front() == "grpc://10.0.0.7:9001");

  rig::run(io, register_user(reg));
  CHECK(etcd.get("/services/user-service/user-1") ==
        R"({"id":"user-1","name":"user-service","version":"","metadata":null,)"
        R"("endpoints":["grpc://10.0.0.5:9001"]})");

  // The same id: taken over from a lease, refused without one.
  registry::ServiceInstance seven("user-service", "user-7");
  seven.endpoints = {"grpc://10.0.0.5:9007"};
  rig::run(io, reg.register_instance(seven));
  etcd.put("/services/user-service/user-8", registry::encode(seven));
  registry::ServiceInstance eight("user-service", "user-8");
  eight.endpoints = seven.endpoints;
  CHECK(rig::run(io, rig::code_of(reg.register_instance(eight))) == registry::errc::unleased_key);

  rig::run(io, print_users(reg));
  rig::run(io, what_went_wrong(reg));
  rig::run(io, what_went_wrong(reg));
  rig::run(io, some_keys_of_my_own(connector));
  CHECK(etcd.get("/settings/colour") == "blue");
  const std::int64_t mine = etcd.grant(60s);
  CHECK(rig::run(io, am_first(connector, mine)));
  CHECK_FALSE(rig::run(io, am_first(connector, mine)));

  // begin: shutdown
  auto stop = [](registry::Registry& registry, registry::etcd::Connector& from) -> asio::awaitable<void> {
    co_await registry.close();  // our keys are gone when this returns
    co_await from.close();      // nothing is in flight any more
  };
  // end: shutdown
  auto following = asio::co_spawn(io, follow_users(reg), asio::use_future);
  rig::run(io, stop(reg, connector));
  following.get();
  CHECK_FALSE(etcd.get("/services/user-service/user-7"));
}
