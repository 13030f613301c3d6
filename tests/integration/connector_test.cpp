// The Connector against real servers: its contracts as a store, its errors, TLS, authentication, several
// members.
#include <doctest/doctest.h>

#include <chrono>
#include <ostream>
#include <string>
#include <vector>

#include "rig/cluster.hpp"
#include "rig/store_conformance.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

std::string refusal(etcd::ConnectorConfig config) {
  asio::io_context io;
  try {
    etcd::Connector connector(io.get_executor(), std::move(config));
    rig::run(io, connector.connect());
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

bool says(const std::string& text, const std::string& part) {
  CAPTURE(text);
  CAPTURE(part);
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

asio::awaitable<std::string> read(etcd::Connector& connector, std::string key) {
  etcdpb::RangeRequest request;
  request.set_key(std::move(key));
  const etcdpb::RangeResponse answer = co_await connector.range(std::move(request));
  co_return answer.kvs_size() == 1 ? answer.kvs(0).value() : std::string();
}

}  // namespace

TEST_CASE("connector: conforms as a store") {
  Etcd etcd;
  StoreFixture fixture;
  fixture.make = [&](asio::io_context& io) -> std::unique_ptr<Store> {
    return std::make_unique<etcd::Connector>(io.get_executor(), connector_config(etcd.endpoint()));
  };
  fixture.expire = [&](Store&, std::int64_t lease) { etcd.revoke(lease); };
  fixture.compact = [&](Store&, std::int64_t revision) { etcd.compact(revision); };
  store_conformance(fixture);
}

TEST_CASE("connector: bad settings name the field and the value") {
  const auto with = [](auto change) {
    etcd::ConnectorConfig config;
    change(config);
    return refusal(std::move(config));
  };
  says(with([](auto& c) { c.endpoints = {}; }), "endpoints = []");
  says(with([](auto& c) { c.endpoints = {"localhost"}; }), "endpoints = \"localhost\"");
  says(with([](auto& c) { c.endpoints = {"ftp://localhost:2379"}; }), "host:port");
  says(with([](auto& c) { c.endpoints = {"localhost:0"}; }), "localhost:0");
  says(with([](auto& c) { c.endpoints = {"https://localhost:2379"}; }), "wants TLS");
  says(with([](auto& c) { c.request_timeout = 0ms; }), "request_timeout = 0 ms");
  says(with([](auto& c) { c.ping_interval = 1s; }), "ping_interval = 1000 ms");
  says(with([](auto& c) { c.auto_sync_interval = 999ms; }), "auto_sync_interval = 999 ms");
  says(with([](auto& c) { c.auto_sync_interval = -1ms; }), "auto_sync_interval = -1 ms");
  says(with([](auto& c) { c.auto_sync_interval = 25h; }), "24 hours");
  says(with([](auto& c) { c.password = "secret"; }), "username");
  says(with([](auto& c) {
         c.tls.emplace();
         c.tls->cert_file = "cert.pem";
       }),
       "tls.key_file");
  says(with([](auto& c) {
         c.tls.emplace();
         c.tls->ca_file = "/nowhere/ca.pem";
       }),
       "\"/nowhere/ca.pem\"");
}

TEST_CASE("connector: an etcd that is not there is named, within the dial timeout") {
  auto config = connector_config("127.0.0.1:1");
  config.dial_timeout = 500ms;
  const auto text = refusal(config);
  says(text, "127.0.0.1:1");
  says(text, "refused");
}

TEST_CASE("connector: user and password, a wrong password, and a token that runs out") {
  EtcdOptions options;
  options.auth_token_ttl = 2s;
  Etcd etcd(options);
  EtcdUser user{"svc", "svcpw", "/genesis/"};
  etcd.enable_auth("rootpw", user);

  auto config = connector_config(etcd.endpoint());
  says(refusal(config), "user name is empty");
  config.username = "svc";
  config.password = "wrong";
  says(refusal(config), "wrong user name or password");

  config.password = "svcpw";
  asio::thread_pool pool(2);
  etcd::Connector connector(pool.get_executor(), config);
  rig::run(pool, connector.connect());
  Registry reg(connector, quick_config());
  EventLog log(pool, reg.watch("user-service"));
  rig::run(pool, reg.register_instance(instance("user-service", "user-1"), 5s));
  // Longer than the token lives without use.
  CHECK(holds_for(6s, [&] { return etcd.entry(key_of("user-service", "user-1")).has_value(); }));
  rig::run(pool, reg.update_instance(instance("user-service", "user-1", "v2")));
  CHECK(rig::run(pool, reg.get_service("user-service")).size() == 1);
  auto late = reg.watch("user-service");
  // A new watcher begins with what the shared watch has shown so far: the update may still be on its way.
  std::string version;
  while (version != "v2") version = rig::run(pool, late.next())->service.version;
  CHECK(eventually([&] { return log.size() == 2; }));

  auto elsewhere = quick_config();
  elsewhere.name_space = "/forbidden";
  Registry denied(connector, elsewhere);
  CHECK(rig::run(pool, code_of(denied.get_service("user-service"))) == errc::permission_denied);
  CHECK(rig::run(pool, code_of(denied.register_instance(instance("user-service", "user-2")))) ==
        errc::permission_denied);
  rig::run(pool, denied.close());
  rig::run(pool, reg.close());
  CHECK_FALSE(etcd.entry(key_of("user-service", "user-1")));
}

TEST_CASE("connector: a user and password where authentication is off") {
  Etcd etcd;
  auto config = connector_config(etcd.endpoint());
  config.username = "svc";
  config.password = "svcpw";
  CHECK(refusal(config).empty());
}

TEST_CASE("connector: TLS and mutual TLS") {
  Certs certs;
  EtcdOptions options;
  SUBCASE("only the server shows a certificate") { options.tls = certs.server(); }
  SUBCASE("both sides do") { options.tls = certs.mutual(); }
  Etcd etcd(options);
  auto config = connector_config("https://" + etcd.endpoint());
  config.tls.emplace();
  config.tls->ca_file = certs.ca;
  if (options.tls->mutual) {
    config.dial_timeout = 1s;
    CHECK_FALSE(refusal(config).empty());
    config.tls->cert_file = certs.client_cert;
    config.tls->key_file = certs.client_key;
  }
  CHECK(refusal(config).empty());
  config.tls->server_name = "not-in-the-certificate";
  config.dial_timeout = 1s;
  CHECK_FALSE(refusal(config).empty());
}

TEST_CASE("connector: plain text to a TLS server, and an expired certificate, fail with a reason in time") {
  Certs certs;
  EtcdOptions options;
  SUBCASE("plain text") {
    options.tls = certs.server();
    Etcd etcd(options);
    auto config = connector_config(etcd.endpoint());
    config.dial_timeout = 1s;
    CHECK_FALSE(refusal(config).empty());
  }
  SUBCASE("expired") {
    options.tls = certs.expired();
    Etcd etcd(options);
    auto config = connector_config(etcd.endpoint());
    config.tls.emplace();
    config.tls->ca_file = certs.ca;
    config.dial_timeout = 1s;
    says(refusal(config), etcd.endpoint());
  }
}

TEST_CASE("connector: a member that dies is left for another, and calls go on") {
  Cluster cluster(3);
  auto config = connector_config("");
  config.endpoints = cluster.endpoints();
  asio::thread_pool pool(2);
  etcd::Connector connector(pool.get_executor(), config);
  rig::run(pool, connector.connect());
  Registry reg(connector, quick_config());
  RegistrationLog states(pool, reg.registration_events());
  EventLog log(pool, reg.watch("user-service"));
  rig::run(pool, reg.register_instance(instance("user-service", "user-1"), 5s));
  for (std::size_t i = 0; i < cluster.size(); ++i) {
    cluster[i].kill();
    CHECK(eventually([&] { return rig::run(pool, reg.get_service("user-service")).size() == 1; }));
    const auto version = "v" + std::to_string(i + 2);
    rig::run(pool, reg.update_instance(instance("user-service", "user-1", version)));
    CHECK(eventually([&] {
      const auto events = log.all();
      return !events.empty() && events.back().service.version == version;
    }));
    cluster[i].restart();
    cluster.wait_ready();
  }
  CHECK(states.size() == 1);  // never lost
  rig::run(pool, reg.close());
}

TEST_CASE("connector: what one request may carry, and what it may not") {
  Etcd etcd;
  asio::io_context io;
  etcd::Connector connector(io.get_executor(), connector_config(etcd.endpoint()));
  etcdpb::PutRequest put;
  put.set_key("big");
  put.set_value(std::string(1'600'000, 'x'));
  CHECK(rig::run(io, code_of(connector.put(put))) == errc::too_large);
  put.set_value(std::string(2'200'000, 'x'));
  CHECK(rig::run(io, code_of(connector.put(put))) == errc::too_large);
  put.set_value(std::string(1'400'000, 'x'));
  for (int i = 0; i < 5; ++i) {
    put.set_key("big" + std::to_string(i));
    rig::run(io, connector.put(put));
  }
  etcdpb::RangeRequest all;
  all.set_key("big");
  all.set_range_end("bih");
  CHECK(rig::run(io, connector.range(all)).kvs_size() == 5);  // 7 MB in one answer
  auto batches = connector.watch(KeyRange("big", "bih"), 1);
  std::size_t seen = 0;
  while (seen < 5) seen += rig::run(io, batches.next())->changes.size();
  CHECK(seen == 5);
  CHECK(rig::run(io, read(connector, "big0")).size() == 1'400'000);

  std::vector<Write> writes;
  for (std::size_t i = 0; i < connector.backend()->limits().writes; ++i) {
    writes.emplace_back("w" + std::to_string(i), "v", 0, 0);
  }
  CHECK(rig::run(io, connector.backend()->commit(writes)).results.size() == writes.size());
  writes.emplace_back("one more", "v", 0, 0);
  writes.emplace_back("and one", "v", 0, 0);
  CHECK(rig::run(io, code_of(connector.backend()->commit(writes))) == errc::too_large);
}

TEST_CASE(
    "connector: a commit that nobody contests is one plain transaction, each write is judged only when one "
    "is refused") {
  World world;
  const auto transactions = [&] {
    return world.etcd.metric("grpc_server_started_total", "grpc_method=\"Txn\"");
  };
  std::vector<Write> writes;
  for (const char* key : {"/w/1", "/w/2", "/w/3"}) writes.emplace_back(key, "v", 0, 0);
  const double none = transactions();
  const Committed first = world.run(world.store.backend()->commit(writes));
  CHECK(transactions() == none + 1);
  for (const auto& result : first.results) CHECK(result.applied);

  writes[0].expected = writes[2].expected = first.revision;  // and /w/2 as if it were absent
  for (Write& write : writes) write.value = "w";
  const Committed second = world.run(world.store.backend()->commit(writes));
  CHECK(transactions() == none + 3);
  CHECK(second.revision == first.revision + 1);
  CHECK(second.results[0].applied);
  CHECK_FALSE(second.results[1].applied);
  REQUIRE(second.results[1].found);
  CHECK(second.results[1].found->mod_revision == first.revision);
  CHECK(second.results[2].applied);
  CHECK(world.etcd.get("/w/1") == "w");
  CHECK(world.etcd.get("/w/2") == "v");
  CHECK(world.etcd.get("/w/3") == "w");
}

TEST_CASE("connector: a write whose answer is lost is unknown, one that was not sent is not") {
  World world;
  std::vector<Write> writes;
  writes.emplace_back("/w/1", "v", 0, 0);
  world.run(world.store.connect());
  world.gate.swallow(Way::down);
  CHECK(world.run(code_of(world.store.backend()->commit(writes))) == errc::outcome_unknown);
  CHECK(world.etcd.get("/w/1") == "v");
  world.gate.pass();
  world.gate.refuse();
  writes[0].key = "/w/2";
  CHECK(eventually(
      [&] { return world.run(code_of(world.store.backend()->commit(writes))) == errc::unavailable; }));
  CHECK_FALSE(world.etcd.get("/w/2"));
}

TEST_CASE(
    "connector: a watch that nobody reads ends instead of growing for ever, and resumes without a gap") {
  Etcd etcd;
  asio::io_context io;
  etcd::Connector connector(io.get_executor(), connector_config(etcd.endpoint()));
  auto unread = connector.watch(KeyRange("k"), etcd.revision() + 1);
  auto read = connector.watch(KeyRange("k"), etcd.revision() + 1);
  std::int64_t through = rig::run(io, unread.next())->through;
  rig::run(io, read.next());
  etcdpb::PutRequest put;
  put.set_key("k");
  std::int64_t last = 0;
  // A busy server folds some revisions into one batch: far more than the bound.
  for (int i = 0; i < 3000; ++i) {
    put.set_value(std::to_string(i));
    last = rig::run(io, connector.put(put)).header().revision();
    while (read.try_next()) {
    }
  }
  std::error_code ended;
  while (!ended) {
    try {
      through = rig::run(io, unread.next())->through;
      REQUIRE(through < last);
    } catch (const std::system_error& error) {
      ended = error.code();
    }
  }
  CHECK(ended == errc::unavailable);
  auto resumed = connector.watch(KeyRange("k"), through + 1);
  while (through < last) {
    const auto batch = rig::run(io, resumed.next());
    for (const auto& change : batch->changes) CHECK(change.kv.mod_revision == ++through);
  }
  // The other one on the same stream was not disturbed.
  put.set_value("more");
  last = rig::run(io, connector.put(put)).header().revision();
  while (rig::run(io, read.next())->through < last) {
  }
}

TEST_CASE("connector: nothing is left to do once its watches are gone: the context's run() returns") {
  if (skip_without_etcd()) return;
  Etcd etcd;
  asio::io_context io;
  auto config = connector_config(etcd.endpoint());
  SUBCASE("without auto-sync") {}
  SUBCASE("with auto-sync") { config.auto_sync_interval = 1min; }
  etcd::Connector store(io.get_executor(), config);
  auto once = [](etcd::Connector& on) -> asio::awaitable<void> {
    Generator<Batch> watch = on.watch(KeyRange("/a/", "/b"), 1);
    co_await watch.next();
  };
  const auto begin = std::chrono::steady_clock::now();
  asio::co_spawn(io, once(store), [](std::exception_ptr error) { CHECK_FALSE(error); });
  io.run();
  // Less than request_timeout, which is what an open create may take.
  CHECK(std::chrono::steady_clock::now() - begin < connector_config("").request_timeout - 500ms);
}
