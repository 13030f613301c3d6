// The code of docs/etcd.md, run on real etcd servers.
#include <doctest/doctest.h>

#include <asio/thread_pool.hpp>
#include <chrono>
#include <iostream>
#include <string>
#include <system_error>

#include "registry/registry.hpp"
#include "rig/world.hpp"

using namespace std::chrono_literals;

namespace {

registry::etcd::ConnectorConfig settings() {
  // begin: cluster
  registry::etcd::ConnectorConfig config;
  config.endpoints = {"10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"};  // members of one cluster
  config.dial_timeout = 5s;          // one attempt to connect, and connect() as a whole
  config.request_timeout = 3s;       // one call with its retries
  config.ping_interval = 10s;        // at least 6 s
  config.ping_timeout = 3s;          // then the connection counts as broken
  config.auto_sync_interval = 5min;  // also use members that are not named above; 0: only those
  // end: cluster
  return config;
}

asio::awaitable<void> smallest(const asio::any_io_executor& executor,
                               registry::etcd::ConnectorConfig config) {
  // begin: smallest
  registry::etcd::Connector etcd(executor, config);
  co_await etcd.connect();       // not needed; says early whether it works
  registry::Registry reg(etcd);  // borrows the connection
  // end: smallest
  co_await reg.close();
  co_await etcd.close();
}

void log_in(registry::etcd::ConnectorConfig& config) {
  // begin: user
  config.username = "user-service";
  config.password = "secret";
  // end: user
}

void use_tls(registry::etcd::ConnectorConfig& config) {
  // begin: tls
  registry::etcd::Tls tls;
  tls.ca_file = "/etc/user-service/tls/ca.pem";        // left out: the system's authorities
  tls.cert_file = "/etc/user-service/tls/client.pem";  // these two: mutual TLS
  tls.key_file = "/etc/user-service/tls/client-key.pem";
  tls.server_name = "etcd.internal";  // left out: the endpoint's own name or address
  config.tls = tls;
  // end: tls
}

namespace pb = registry::etcd::pb;

// begin: outcomes
enum class Outcome { Done, NotDone, Unknown };

asio::awaitable<Outcome> put(registry::etcd::Connector& etcd, pb::PutRequest request) {
  try {
    co_await etcd.put(request);
    co_return Outcome::Done;
  } catch (const std::system_error& error) {
    std::cerr << error.what() << '\n';
    co_return registry::is_indeterminate(error.code()) ? Outcome::Unknown : Outcome::NotDone;
  }
}
// end: outcomes

// begin: plain
asio::awaitable<bool> create(registry::etcd::Connector& etcd, std::string key, std::string value) {
  pb::TxnRequest txn;  // if the key is absent: write it
  auto& guard = *txn.add_compare();
  guard.set_target(pb::Compare::CREATE);
  guard.set_key(key);
  auto& put = *txn.add_success()->mutable_request_put();
  put.set_key(key);
  put.set_value(value);
  const pb::TxnResponse answer = co_await etcd.txn(txn);
  co_return answer.succeeded();
}
// end: plain

pb::PutRequest put_of(const std::string& key) {
  pb::PutRequest request;
  request.set_key(key);
  request.set_value("v");
  return request;
}

registry::etcd::ConnectorConfig at(const std::string& endpoint) {
  auto config = settings();
  config.endpoints = {endpoint};
  config.auto_sync_interval = 0s;
  return config;
}

/// What an operator types; the commands are those of docs/etcd.md.
void must(const rig::Etcd& etcd, const std::vector<std::string>& command) {
  const auto output = etcd.ctl(command);
  INFO(output.err);
  REQUIRE(output.code == 0);
}

}  // namespace

TEST_CASE("etcd docs: a cluster's settings are valid, and connect") {
  registry::etcd::validate(settings());
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd;
  asio::thread_pool pool(2);
  rig::run(pool, smallest(pool.get_executor(), at(etcd.endpoint())));
}

TEST_CASE("etcd docs: a write is done, not done, or nobody knows") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd;
  rig::Gate gate(etcd.endpoint());
  asio::thread_pool pool(2);
  auto config = at(gate.endpoint());
  config.request_timeout = 2s;
  registry::etcd::Connector store(pool.get_executor(), config);
  const std::string key = "mine/a";
  CHECK(rig::run(pool, put(store, put_of(key))) == Outcome::Done);
  gate.swallow(rig::Way::down);  // the answer is lost
  CHECK(rig::run(pool, put(store, put_of("mine/b"))) == Outcome::Unknown);
  CHECK(rig::eventually([&] { return etcd.get("mine/b") == "v"; }));
  gate.refuse();
  // A new one: what is sent on a connection that has just ended may have got through.
  registry::etcd::Connector later(pool.get_executor(), config);
  CHECK(rig::run(pool, put(later, put_of("mine/c"))) == Outcome::NotDone);
  CHECK_FALSE(etcd.get("mine/c"));
  gate.pass();
  CHECK(rig::eventually([&] { return rig::run(pool, create(later, "mine/d", "v")); }));
  CHECK_FALSE(rig::run(pool, create(later, "mine/d", "other")));
}

TEST_CASE("etcd docs: the roles of the page are enough, and no more than needed") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd;
  must(etcd, {"role", "add", "user-service"});
  must(etcd, {"role", "grant-permission", "user-service", "readwrite", "/genesis/services/user-service/",
              "--prefix=true"});
  must(etcd, {"user", "add", "user-service:secret"});
  must(etcd, {"user", "grant-role", "user-service", "user-service"});
  must(etcd, {"role", "add", "service-reader"});
  must(etcd, {"role", "grant-permission", "service-reader", "read", "/genesis/services/", "--prefix=true"});
  must(etcd, {"user", "add", "web:secret"});
  must(etcd, {"user", "grant-role", "web", "service-reader"});
  etcd.enable_auth("rootpw");

  asio::thread_pool pool(2);
  auto config = at(etcd.endpoint());
  registry::etcd::Connector nobody(pool.get_executor(), config);
  CHECK(rig::run(pool, rig::code_of(nobody.connect())) == registry::errc::authentication_failed);
  log_in(config);
  registry::etcd::Connector writer_store(pool.get_executor(), config);
  rig::run(pool, writer_store.connect());
  registry::Registry writer(writer_store, rig::quick_config());
  const auto mine = rig::instance("user-service", "user-1");
  const auto foreign = rig::instance("web-service", "web-1");
  rig::run(pool, writer.register_instance(mine));
  rig::run(pool, writer.update_instance(mine, 10s));
  CHECK(rig::run(pool, writer.get_service("user-service")).size() == 1);
  CHECK(rig::run(pool, rig::code_of(writer.register_instance(foreign))) == registry::errc::permission_denied);

  config.username = "web";
  registry::etcd::Connector reader_store(pool.get_executor(), config);
  registry::Registry reader(reader_store, rig::quick_config());
  CHECK(rig::run(pool, reader.list_services()) == std::vector<std::string>{"user-service"});
  const auto view = rig::run(pool, reader.subscribe("user-service"));
  CHECK(view.snapshot()->instances.size() == 1);
  CHECK(rig::run(pool, rig::code_of(reader.register_instance(foreign))) == registry::errc::permission_denied);
  rig::run(pool, writer.deregister("user-1"));
  CHECK(rig::eventually([&] { return view.snapshot()->instances.empty(); }));
}

TEST_CASE("etcd docs: mutual TLS under one name, with user and password") {
  if (rig::skip_without_etcd()) return;
  const rig::Certs certs({"etcd.internal"});
  rig::EtcdOptions options;
  options.tls = certs.mutual();
  options.root_password = "rootpw";
  options.users = {{"user-service", "secret", "/genesis/services/"}};
  rig::Etcd etcd(options);
  auto config = at(etcd.endpoint());
  use_tls(config);
  log_in(config);
  registry::etcd::validate(config);
  asio::thread_pool pool(2);
  const auto& executor = pool.get_executor();
  try {
    registry::etcd::Connector store(executor, config);
    FAIL("a file that is not there was read");
  } catch (const std::system_error& error) {
    CHECK(error.code() == registry::errc::tls_failed);
    CHECK(std::string(error.what()).find("/etc/user-service/tls/ca.pem") != std::string::npos);
  }
  config.tls->ca_file = certs.ca;
  config.tls->cert_file = certs.client_cert;
  config.tls->key_file = certs.client_key;
  registry::etcd::Connector store(executor, config);
  registry::Registry reg(store);
  const auto instance = rig::instance("user-service", "user-1");
  rig::run(pool, reg.register_instance(instance));
  CHECK(etcd.get(rig::key_of("user-service", "user-1")).has_value());
  rig::run(pool, reg.close());
}
