// The code of docs/testing.md.
#include <doctest/doctest.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <atomic>
#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "registry/registry.hpp"
#include "rig/etcd.hpp"
#include "rig/store_conformance.hpp"
#include "rig/temp_dir.hpp"

using namespace std::chrono_literals;

namespace {

// begin: subject
// A part of your service: it is given the Registry, and does not know which store is behind it.
asio::awaitable<std::string> address_of(registry::Registry& reg, std::string service) {
  const auto instances = co_await reg.get_service(service);
  if (instances.empty()) throw std::runtime_error(service + ": nobody is there");
  co_return instances.front().endpoints.front();
}
// end: subject

// begin: run
// Runs a coroutine to its end on this thread. What it throws is thrown here; one that hangs fails the test.
template <class T>
T run(asio::io_context& io, asio::awaitable<T> work) {
  const auto promise = std::make_shared<std::promise<T>>();
  auto result = promise->get_future();
  asio::co_spawn(io, std::move(work), [promise](std::exception_ptr error, auto... value) {
    error ? promise->set_exception(error) : promise->set_value(std::move(value)...);
  });
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  io.restart();
  while (result.wait_for(0s) != std::future_status::ready) {
    if (io.run_one_until(deadline) == 0) throw std::runtime_error("not finished in time");
  }
  return result.get();
}
// end: run

registry::ServiceInstance user(const std::string& id) {
  registry::ServiceInstance made("user-service", id);
  made.endpoints = {"grpc://10.0.0.5:9001"};
  return made;
}

}  // namespace

// begin: first
TEST_CASE("address_of takes the first instance, and says when there is none") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  CHECK_THROWS_WITH(run(io, address_of(reg, "user-service")), "user-service: nobody is there");

  registry::ServiceInstance instance("user-service", "user-1");
  instance.endpoints = {"grpc://10.0.0.5:9001"};
  run(io, reg.register_instance(instance));
  CHECK(run(io, address_of(reg, "user-service")) == "grpc://10.0.0.5:9001");
}
// end: first

// begin: lost
TEST_CASE("a lease runs out: the registration says so, and comes back") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::RegistryConfig config;
  config.retry_interval = 10ms;  // the pause before it registers again
  registry::Registry reg(store, config);
  const auto registration = run(io, reg.register_instance(user("user-1"), 30s));
  auto states = reg.registration_events();
  CHECK(run(io, states.next())->state == registry::RegistrationState::Registered);

  store.expire(registration.lease);  // now, not in 30 seconds

  const auto lost = run(io, states.next());
  CHECK(lost->state == registry::RegistrationState::Lost);
  CHECK(lost->reason == registry::errc::key_deleted);  // what was seen first: the key, then its lease
  CHECK(run(io, states.next())->state == registry::RegistrationState::Restored);
}
// end: lost

// begin: others
TEST_CASE("instances of others come, turn to rubbish, and go") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  auto events = reg.watch("user-service");

  const std::string key = registry::KeyLayout().key_of("user-service", "user-2");
  store.put(key, registry::encode(user("user-2")));
  CHECK(run(io, events.next())->type == registry::EventType::Put);
  store.put(key, "not JSON");  // who reads it sees no instance there
  CHECK(run(io, events.next())->type == registry::EventType::Delete);
  CHECK(run(io, reg.get_service("user-service")).empty());
}
// end: others

// begin: outage
TEST_CASE("the store is away for a while: the view keeps its list") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::RegistryConfig config;
  config.retry_interval = 10ms;
  registry::Registry reg(store, config);
  run(io, reg.register_instance(user("user-1")));
  auto view = run(io, reg.subscribe("user-service"));
  CHECK_FALSE(run(io, view.next())->stale);

  store.set_unavailable(true);
  const auto old = run(io, view.next());
  CHECK(old->stale);
  CHECK(old->instances.size() == 1);
  CHECK_THROWS_AS(run(io, address_of(reg, "user-service")), std::system_error);

  store.set_unavailable(false);
  while (view.snapshot()->stale) run(io, view.next());
  CHECK(run(io, address_of(reg, "user-service")) == "grpc://10.0.0.5:9001");
}
// end: outage

TEST_CASE("docs testing: a compaction under a watch that was cut off") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::RegistryConfig config;
  config.retry_interval = 10ms;
  registry::Registry reg(store, config);
  const std::string key = registry::KeyLayout().key_of("user-service", "user-2");
  store.put(key, registry::encode(user("user-2")));
  auto events = reg.watch("user-service");
  run(io, events.next());
  // begin: compacted
  store.set_unavailable(true);                  // the watch ends,
  store.erase(key);                             // somebody deletes the key meanwhile,
  store.compact(store.put("/elsewhere", "x"));  // and the history that tells of it is gone
  store.set_unavailable(false);
  const auto event = run(io, events.next());
  CHECK(event->type == registry::EventType::Delete);
  CHECK(event->resynced);  // found by comparing lists: states in between may be missing
  // end: compacted
}

TEST_CASE("docs testing: a snapshot file") {
  const rig::TempDir folder;
  // begin: snapshot
  registry::MemoryStoreConfig config;
  config.snapshot_file = folder / "registry.json";
  {
    asio::io_context io;
    registry::MemoryStore store(io.get_executor(), config);
    registry::Registry reg(store);
    run(io, reg.register_instance(user("user-1")));
    store.save();  // or by itself, a second after a change at the latest, while the executor runs
  }
  // After a restart; leases have their full TTL again.
  asio::io_context io;
  registry::MemoryStore store(io.get_executor(), config);
  registry::Registry reg(store);
  CHECK(run(io, reg.get_service("user-service")).size() == 1);
  // end: snapshot
}

namespace {

// begin: own_store
/// A MemoryStore that loses answers: a commit is applied, and whoever asked for it is not told.
class LossyBackend final : public registry::StoreBackend, public std::enable_shared_from_this<LossyBackend> {
 public:
  explicit LossyBackend(asio::any_io_executor executor) : memory(executor) {}

  registry::MemoryStore memory;
  std::atomic<int> to_lose = 0;

  asio::awaitable<registry::Committed> commit(std::vector<registry::Write> writes) override {
    return commit_on(shared_from_this(), std::move(writes));
  }

  // Everything else is handed through.
  asio::any_io_executor get_executor() const noexcept override { return inner().get_executor(); }
  registry::Limits limits() const noexcept override { return inner().limits(); }
  asio::awaitable<registry::Page> list(registry::ListQuery query) override {
    return inner().list(std::move(query));
  }
  asio::awaitable<registry::Lease> grant(std::int64_t id, std::chrono::seconds ttl) override {
    return inner().grant(id, ttl);
  }
  asio::awaitable<std::chrono::seconds> renew(std::int64_t id, std::chrono::milliseconds timeout) override {
    return inner().renew(id, timeout);
  }
  asio::awaitable<void> revoke(std::int64_t id) override { return inner().revoke(id); }
  registry::Generator<registry::Batch> watch(registry::KeyRange range, std::int64_t from) override {
    return inner().watch(std::move(range), from);
  }
  void cancel() noexcept override { inner().cancel(); }

 private:
  registry::StoreBackend& inner() const noexcept { return *memory.backend(); }

  // A coroutine holds what it needs: the backend may be released while it is under way.
  static asio::awaitable<registry::Committed> commit_on(std::shared_ptr<LossyBackend> self,
                                                        std::vector<registry::Write> writes) {
    registry::Committed done = co_await self->inner().commit(std::move(writes));
    if (self->to_lose > 0) {
      --self->to_lose;
      throw std::system_error(make_error_code(registry::errc::outcome_unknown), "the answer was lost");
    }
    co_return done;
  }
};

class LossyStore final : public registry::Store {
 public:
  explicit LossyStore(asio::any_io_executor executor)
      : LossyStore(std::make_shared<LossyBackend>(std::move(executor))) {}

  void lose(int answers) { lossy_->to_lose = answers; }
  registry::MemoryStore& memory() { return lossy_->memory; }

 private:
  explicit LossyStore(std::shared_ptr<LossyBackend> lossy) : Store(lossy), lossy_(std::move(lossy)) {}

  std::shared_ptr<LossyBackend> lossy_;
};
// end: own_store

}  // namespace

// begin: use_own_store
TEST_CASE("the answer to the registering write is lost twice: registered once, without a conflict") {
  asio::io_context io;
  LossyStore store(io.get_executor());
  registry::RegistryConfig config;
  config.retry_interval = 10ms;
  registry::Registry reg(store, config);
  store.lose(2);
  run(io, reg.register_instance(user("user-1")));
  CHECK(run(io, reg.get_service("user-service")).size() == 1);
}
// end: use_own_store

// begin: conformance
TEST_CASE("LossyStore does what a store must do") {
  rig::StoreFixture fixture;
  fixture.make = [](asio::io_context& io) -> std::unique_ptr<registry::Store> {
    return std::make_unique<LossyStore>(io.get_executor());
  };
  // How others get at the same data. All but `make` are optional: what cannot be done by hand is waited for,
  // or left out.
  fixture.expire = [](registry::Store& store, std::int64_t lease) {
    static_cast<LossyStore&>(store).memory().expire(lease);
  };
  fixture.compact = [](registry::Store& store, std::int64_t revision) {
    static_cast<LossyStore&>(store).memory().compact(revision);
  };
  fixture.disconnect = [](registry::Store& store) { static_cast<LossyStore&>(store).memory().disconnect(); };
  rig::store_conformance(fixture);
}
// end: conformance

// begin: real_etcd
TEST_CASE("user-service on a real etcd, which is stopped and started") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd;  // a server of this test alone: its own data, free ports, gone with the object
  asio::io_context io;
  registry::etcd::ConnectorConfig connection;
  connection.endpoints = {etcd.endpoint()};
  registry::etcd::Connector store(io.get_executor(), connection);
  registry::RegistryConfig config;
  config.retry_interval = 100ms;
  registry::Registry reg(store, config);
  run(io, reg.register_instance(user("user-1")));
  CHECK(etcd.get("/genesis/services/user-service/user-1") == registry::encode(user("user-1")));  // by etcdctl

  auto view = run(io, reg.subscribe("user-service"));
  etcd.kill();
  while (!view.snapshot()->stale) run(io, view.next());
  etcd.restart();
  while (view.snapshot()->stale) run(io, view.next());
  CHECK(view.snapshot()->instances.size() == 1);
  run(io, reg.close());
  CHECK_FALSE(etcd.get("/genesis/services/user-service/user-1"));
}
// end: real_etcd
