// The code of docs/registration.md, run on a MemoryStore.
#include <doctest/doctest.h>

#include <asio/co_spawn.hpp>
#include <asio/steady_timer.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/registry.hpp"
#include "rig/world.hpp"

using namespace std::chrono_literals;
using rig::eventually;
using rig::key_of;

namespace {

struct ServiceWorld : rig::MemoryWorld {
  using MemoryWorld::MemoryWorld;
  std::vector<registry::ServiceInstance> listed() { return run(reg.get_service("user-service")); }
};

// begin: smallest
asio::awaitable<registry::Registration> start(registry::Registry& reg) {
  registry::ServiceInstance self("user-service", "user-1");
  self.version = "1.4.2";
  self.metadata = {{"weight", "100"}, {"zone", "a"}};
  self.endpoints = {"grpc://10.0.0.5:9001"};
  registry::Registration mine = co_await reg.register_instance(self, 30s);
  co_return mine;  // the key is stored, and is kept from here on
}
// end: smallest

// begin: update
asio::awaitable<void> change(registry::Registry& reg, registry::ServiceInstance self) {
  self.metadata["weight"] = "50";
  co_await reg.update_instance(self);  // one write, the same lease

  self.metadata["status"] = "draining";     // stays in the list, gets no new calls
  co_await reg.update_instance(self, 10s);  // the same write moves the key to a lease of this TTL
}
// end: update

// begin: events
asio::awaitable<void> report(registry::Registry& reg) {
  auto events = reg.registration_events();  // the present states first
  while (auto event = co_await events.next()) {
    switch (event->state) {
      case registry::RegistrationState::Registered:
      case registry::RegistrationState::Restored: std::cout << event->id << " is there\n"; break;
      case registry::RegistrationState::Lost:  // it is claimed again by itself
      case registry::RegistrationState::Displaced:
        std::cout << event->id << ": " << event->reason.message() << '\n';
        break;
      case registry::RegistrationState::Closed: break;
    }
  }
}
// end: events

// begin: patient
asio::awaitable<void> register_patiently(registry::Registry& reg, registry::ServiceInstance self) {
  asio::steady_timer pause(co_await asio::this_coro::executor);
  for (;;) {
    try {
      co_await reg.register_instance(self);
      co_return;
    } catch (const std::system_error& error) {
      if (!registry::is_retryable(error.code())) throw;  // somebody must act
    }
    pause.expires_after(1s);
    co_await pause.async_wait(asio::use_awaitable);
  }
}
// end: patient

// begin: fencing
/// What must have one writer at a time, and cannot look at etcd itself.
class Ledger {
 public:
  bool write(std::int64_t token, const std::string& line) {
    if (token < newest_) return false;  // its writer was displaced and does not know yet
    newest_ = token;
    lines_ += line;
    return true;
  }

 private:
  std::int64_t newest_ = 0;
  std::string lines_;
};
// end: fencing

}  // namespace

TEST_CASE("registration: registered, changed, moved to another TTL, taken away") {
  ServiceWorld world;
  const auto mine = world.run(start(world.reg));
  CHECK(mine.ttl == 30s);
  CHECK(mine.revision > 0);
  REQUIRE(world.listed().size() == 1);
  world.run(change(world.reg, world.listed().front()));
  const auto changed = world.listed().front();
  CHECK(changed.weight() == 50);
  CHECK(changed.status() == registry::InstanceStatus::Draining);
  const auto given_up = [&world, &mine] {  // the lease of 30 s
    try {
      world.store.put("/probe", "", mine.lease);
      return false;
    } catch (const std::system_error& error) {
      return error.code() == registry::errc::lease_lost;
    }
  };
  CHECK(eventually(given_up));
  const auto leave = [](registry::Registry& reg) -> asio::awaitable<void> {
    // begin: leave
    co_await reg.deregister("user-1");  // this one; others stay
    co_await reg.close();               // all of them, and everything else ends
    // end: leave
  };
  const auto other = rig::instance("user-service", "user-2");
  world.run(world.reg.register_instance(other));
  world.run(leave(world.reg));
  registry::Registry reader(world.store);
  CHECK(world.run(reader.get_service("user-service")).empty());
}

TEST_CASE("registration: the events say what becomes of an instance") {
  ServiceWorld world(rig::quick_config(), 1);  // one thread: who asks first has joined first
  const auto mine = world.run(start(world.reg));
  std::ostringstream text;
  std::streambuf* const before = std::cout.rdbuf(text.rdbuf());
  auto reported = asio::co_spawn(world.pool, report(world.reg), asio::use_future);
  rig::RegistrationLog log(world.pool, world.reg.registration_events());
  CHECK(eventually([&] { return log.size() == 1; }));
  CHECK(world.store.expire(mine.lease));
  CHECK(eventually([&] { return rig::has_state(log, registry::RegistrationState::Restored); }));
  CHECK(world.store.erase(key_of("user-service", "user-1")));
  CHECK(eventually([&] { return rig::has_state(log, registry::RegistrationState::Restored, 2); }));
  registry::Registry other(world.store);
  world.run(start(other));
  CHECK(eventually([&] { return rig::has_state(log, registry::RegistrationState::Displaced); }));
  world.run(world.reg.close());
  reported.get();
  std::cout.rdbuf(before);
  const std::string lost_and_back = "user-1: the key was deleted by someone else\nuser-1 is there\n";
  CHECK(text.str().starts_with("user-1 is there\n" + lost_and_back + lost_and_back));
  CHECK(text.str().ends_with("user-1: another owner has taken the key over\n"));
}

TEST_CASE("registration: who may not take a key over is told of the conflict") {
  ServiceWorld first;
  first.run(start(first.reg));
  // begin: conflict
  registry::RegistryConfig config;
  config.on_conflict = registry::ConflictPolicy::Fail;
  // end: conflict
  registry::Registry second(first.store, config);
  CHECK(first.run(rig::code_of(start(second))) == registry::errc::conflict);
  CHECK(first.run(rig::code_of(start(first.reg))) == registry::errc::already_registered);
  first.store.put(key_of("user-service", "user-9"), "no lease");
  const auto taken = rig::instance("user-service", "user-9");
  CHECK(first.run(rig::code_of(first.reg.register_instance(taken))) == registry::errc::unleased_key);
}

TEST_CASE("registration: the revision of a successor is the newer token") {
  ServiceWorld world;
  const auto old = world.run(start(world.reg));
  registry::Registry successor(world.store);
  const auto mine = world.run(start(successor));
  Ledger ledger;
  CHECK(ledger.write(old.revision, "old"));
  CHECK(ledger.write(mine.revision, "new"));
  CHECK_FALSE(ledger.write(old.revision, "too late"));
}

TEST_CASE("registration: a patient start waits for the store, and for nothing else") {
  ServiceWorld world;
  world.store.set_unavailable(true);
  rig::RegistrationLog log(world.pool, world.reg.registration_events());
  auto self = rig::instance("user-service", "user-1");
  auto registered = asio::co_spawn(world.pool, register_patiently(world.reg, self), asio::use_future);
  world.store.set_unavailable(false);
  registered.get();
  CHECK(eventually([&] { return rig::has_state(log, registry::RegistrationState::Registered); }));
  self.id = "user/2";
  CHECK(world.run(rig::code_of(register_patiently(world.reg, self))) == registry::errc::invalid_argument);
}
