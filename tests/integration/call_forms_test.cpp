// Every public awaitable in every natural form of a call, on both stores: g++ 12 miscompiles some temporaries
// inside co_await, which the sanitizers of this test would show.
#include <doctest/doctest.h>

#include <chrono>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

std::string name() { return "user-service-with-a-name-that-is-not-small"; }
std::string id(int i) { return "user-instance-with-an-id-that-is-not-small-" + std::to_string(i); }
ServiceInstance made(int i) { return instance(name(), id(i)); }
ServiceFilter filter() {
  return ServiceFilter().version("v1").metadata("some-metadata-key-of-length", "some-value-of-length");
}
std::chrono::seconds ttl() { return 30s; }

asio::awaitable<void> registry_forms(Registry& reg) {
  ServiceInstance lvalue = made(1);
  co_await reg.register_instance(lvalue);
  CHECK(lvalue == made(1));
  co_await reg.register_instance(made(2));
  ServiceInstance moved = made(3);
  co_await reg.register_instance(std::move(moved), 30s);
  const ServiceInstance constant = made(4);
  const Registration registration = co_await reg.register_instance(constant, ttl());
  CHECK(registration.id == id(4));
  co_await reg.register_instance(instance(name(), id(5)), std::chrono::seconds(20));

  co_await reg.update_instance(lvalue);
  co_await reg.update_instance(made(2));
  ServiceInstance updated = made(3);
  co_await reg.update_instance(std::move(updated));
  co_await reg.update_instance(lvalue, ttl());
  co_await reg.update_instance(made(2), std::chrono::seconds(40));

  const std::string service = name();
  std::string movable = name();
  CHECK((co_await reg.get_service(service)).size() == 5);
  CHECK((co_await reg.get_service("user-service-with-a-name-that-is-not-small")).size() == 5);
  CHECK((co_await reg.get_service(std::move(movable))).size() == 5);
  CHECK((co_await reg.get_service(name(), filter())).empty());
  ServiceFilter lvalue_filter = filter();
  CHECK((co_await reg.get_service(name(), lvalue_filter)).empty());
  CHECK((co_await reg.get_service(service, std::move(lvalue_filter))).empty());
  CHECK((co_await reg.get_service(service, ServiceFilter())).size() == 5);
  CHECK((co_await reg.list_services()).size() == 1);

  ServiceView view = co_await reg.subscribe(service);
  ServiceView filtered = co_await reg.subscribe(name(), filter());
  view = co_await reg.subscribe("user-service-with-a-name-that-is-not-small", ServiceFilter().version("v1"));
  co_await view.wait_ready();
  co_await view.wait_ready(5);
  const auto snapshot = co_await view.next();
  CHECK(snapshot->instances.size() == 5);
  CHECK(filtered.snapshot()->instances.empty());

  auto events = reg.watch(service);
  auto others = reg.watch(name(), filter());
  co_await events.wait();
  CHECK(events.try_next());
  auto event = co_await events.next();
  CHECK(event->service.name == name());
  CHECK_FALSE(others.try_next());
  auto states = reg.registration_events();
  CHECK((co_await states.next())->state == RegistrationState::Registered);
  CHECK((co_await reg.watch(service).next()).has_value());

  const std::string first = id(1);
  co_await reg.deregister(first);
  co_await reg.deregister(id(2));
  std::string third = id(3);
  co_await reg.deregister(std::move(third));
  co_await reg.deregister("user-instance-with-an-id-that-is-not-small-4");
  co_await reg.close();
}

asio::awaitable<void> store_forms(std::shared_ptr<StoreBackend> backend) {
  const Lease lease = co_await backend->grant(4711, 30s);
  CHECK((co_await backend->renew(lease.id, 1000ms)) == lease.ttl);
  std::vector<Write> writes;
  writes.emplace_back("/forms/a-key-that-is-not-small", "a value that is not small either", lease.id, 0);
  CHECK((co_await backend->commit(writes)).results[0].applied);
  CHECK_FALSE((co_await backend->commit(std::move(writes))).results[0].applied);
  ListQuery query(KeyRange("/forms/", "/forms0"));
  CHECK((co_await backend->list(query)).items.size() == 1);
  CHECK((co_await backend->list(ListQuery(KeyRange("/forms/", "/forms0")))).items.size() == 1);
  const Page page = co_await backend->list(std::move(query));
  auto batches = backend->watch(KeyRange("/forms/", "/forms0"), page.revision);
  CHECK((co_await batches.next()).has_value());
  co_await backend->revoke(lease.id);
}

asio::awaitable<void> connector_forms(etcd::Connector& connector) {
  co_await connector.connect();
  etcdpb::PutRequest put;
  put.set_key("/forms/plain");
  put.set_value("value");
  co_await connector.put(put);
  co_await connector.put(std::move(put));
  etcdpb::RangeRequest range;
  range.set_key("/forms/plain");
  CHECK((co_await connector.range(range)).kvs_size() == 1);
  etcdpb::TxnRequest txn;
  *txn.add_success()->mutable_request_range() = range;
  CHECK((co_await connector.txn(txn)).succeeded());
  etcdpb::DeleteRangeRequest erase;
  erase.set_key("/forms/plain");
  CHECK((co_await connector.delete_range(erase)).deleted() == 1);
  etcdpb::LeaseGrantRequest grant;
  grant.set_ttl(30);
  const auto lease = co_await connector.lease_grant(grant);
  CHECK((co_await connector.lease_keep_alive(lease.id())) == 30s);
  etcdpb::LeaseTimeToLiveRequest left;
  left.set_id(lease.id());
  CHECK((co_await connector.lease_time_to_live(left)).granted_ttl() == 30);
  CHECK((co_await connector.lease_leases()).leases_size() == 1);
  etcdpb::LeaseRevokeRequest revoke;
  revoke.set_id(lease.id());
  co_await connector.lease_revoke(revoke);
  CHECK((co_await connector.member_list()).members_size() == 1);
  CHECK_FALSE((co_await connector.status()).version().empty());
  auto batches = connector.watch(KeyRange("/forms/", "/forms0"), 1);
  CHECK((co_await batches.next()).has_value());
  co_await connector.close();
  co_await connector.close();
}

}  // namespace

TEST_CASE("call forms: on the embedded store") {
  asio::io_context io;
  MemoryStore store(io.get_executor());
  Registry reg(store, quick_config());
  rig::run(io, store_forms(store.backend()));
  rig::run(io, registry_forms(reg));
}

TEST_CASE("call forms: on etcd") {
  Etcd etcd;
  asio::io_context io;
  etcd::Connector store(io.get_executor(), connector_config(etcd.endpoint()));
  Registry reg(store, quick_config());
  rig::run(io, store_forms(store.backend()));
  rig::run(io, registry_forms(reg));
  rig::run(io, connector_forms(store));
}
