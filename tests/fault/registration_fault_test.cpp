// A registration through every failure of etcd: the key is there again by itself, or it is known why it is
// not.
#include <doctest/doctest.h>

#include <chrono>
#include <ostream>
#include <string>
#include <vector>

#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

const std::string key = key_of("user-service", "user-1");

/// The lease that holds the key; 0 when the key is not there.
std::int64_t lease_of_key(Etcd& etcd) {
  const auto entry = etcd.entry(key);
  return entry ? entry->lease : 0;
}

bool key_there(Etcd& etcd) { return lease_of_key(etcd) != 0; }

}  // namespace

TEST_CASE("registration: TTL 5 s, one minute later the key is there under the same lease") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  const auto registration = world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  CHECK(registration.ttl == 5s);
  const auto lease = lease_of_key(world.etcd);
  CHECK(lease == registration.lease);
  CHECK(holds_for(60s, [&] { return lease_of_key(world.etcd) == lease; }));
  CHECK(log.size() == 1);
  world.run(world.reg.close());
  CHECK_FALSE(key_there(world.etcd));
}

TEST_CASE("registration: etcd is killed and restarted") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  world.etcd.kill();
  world.etcd.restart();
  CHECK(eventually([&] { return key_there(world.etcd); }));
  // It stays: longer than the lease would live without renewals.
  CHECK(holds_for(8s, [&] { return key_there(world.etcd); }));
  world.run(world.reg.close());
}

TEST_CASE("registration: the lease is revoked from outside; it comes back under a new one") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  const auto registration = world.run(world.reg.register_instance(instance("user-service", "user-1"), 30s));
  world.etcd.revoke(registration.lease);
  CHECK(eventually([&] { return has_state(log, RegistrationState::Restored); }));
  CHECK(key_there(world.etcd));
  CHECK(lease_of_key(world.etcd) != registration.lease);
  CHECK(has_state(log, RegistrationState::Lost));
  world.run(world.reg.close());
}

TEST_CASE("registration: the key is deleted from outside; it comes back under the same lease") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  const auto registration = world.run(world.reg.register_instance(instance("user-service", "user-1"), 30s));
  world.etcd.del(key);
  CHECK(eventually([&] { return has_state(log, RegistrationState::Restored); }));
  CHECK(lease_of_key(world.etcd) == registration.lease);
  world.run(world.reg.close());
}

TEST_CASE("registration: the key is taken over; that is reported, final, and nobody fights") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  Registry successor(world.store, quick_config());
  const auto theirs = world.run(successor.register_instance(instance("user-service", "user-1", "v2"), 30s));
  CHECK(eventually([&] { return has_state(log, RegistrationState::Displaced); }));
  // The displaced one lets its lease run out and touches nothing.
  CHECK(holds_for(7s, [&] { return lease_of_key(world.etcd) == theirs.lease; }));
  world.run(world.reg.close());
  CHECK(lease_of_key(world.etcd) == theirs.lease);
  world.run(successor.close());
  CHECK_FALSE(key_there(world.etcd));
}

TEST_CASE("registration: someone puts a key without a lease over ours; it is never taken back") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  world.etcd.put(key, "theirs");
  CHECK(eventually([&] { return has_state(log, RegistrationState::Displaced); }));
  world.run(world.reg.close());
  CHECK(world.etcd.get(key) == "theirs");
  const auto code =
      world.run(code_of(Registry(world.store).register_instance(instance("user-service", "user-1"))));
  CHECK(code == errc::unleased_key);
}

TEST_CASE("registration: etcd is paused for longer than the TTL") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 2s));
  world.etcd.pause();
  // Lost is said while etcd sleeps, before it could have given the key to someone else.
  CHECK(eventually([&] { return has_state(log, RegistrationState::Lost); }));
  world.etcd.resume();
  CHECK(eventually([&] { return has_state(log, RegistrationState::Restored); }, 20s));
  CHECK(eventually([&] { return key_there(world.etcd); }));
  world.run(world.reg.close());
}

TEST_CASE("registration: the way to etcd is a black hole for longer than the TTL") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 2s));
  world.gate.swallow();
  CHECK(eventually([&] { return has_state(log, RegistrationState::Lost); }));
  CHECK(eventually([&] { return !key_there(world.etcd); }));
  world.gate.pass();
  CHECK(eventually([&] { return has_state(log, RegistrationState::Restored); }, 20s));
  CHECK(key_there(world.etcd));
  world.run(world.reg.close());
}

TEST_CASE("registration: etcd's data is wiped") {
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 5s));
  for (int i = 0; i < 20; ++i) world.etcd.put("other", std::to_string(i));
  world.etcd.restart_wiped();
  CHECK(eventually([&] { return has_state(log, RegistrationState::Restored); }, 20s));
  CHECK(key_there(world.etcd));
  world.run(world.reg.close());
  CHECK_FALSE(key_there(world.etcd));
}

TEST_CASE(
    "registration: close returns within its bound when etcd cannot be reached, and the key goes with its "
    "lease") {
  auto config = quick_config();
  config.close_timeout = 500ms;
  World world(config);
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 2s));
  world.gate.swallow();
  world.run(world.reg.close(), 5s);
  CHECK(eventually([&] { return !key_there(world.etcd); }));
}

TEST_CASE("registration: it begins only when etcd can be reached, and says why it does not") {
  World world;
  world.gate.refuse();
  const auto text = world.run(text_of(world.reg.register_instance(instance("user-service", "user-1"))));
  CAPTURE(text);
  CHECK(text.find("connect") != std::string::npos);
  CHECK(text.find(world.gate.endpoint()) != std::string::npos);
  const auto why = world.run(text_of(world.reg.subscribe("user-service")));
  CAPTURE(why);
  CHECK(why.find(world.gate.endpoint()) != std::string::npos);
  world.gate.accept();
  world.run(world.reg.register_instance(instance("user-service", "user-1")));
  CHECK(key_there(world.etcd));
  world.run(world.reg.close());
}
