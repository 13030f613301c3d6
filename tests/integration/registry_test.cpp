// Registration and discovery as a user sees them: the same tests on the embedded store and on a real etcd.
#include <doctest/doctest.h>

#include <chrono>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "rig/raw_etcd.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

/// A store of one kind, and a look at it that does not go through the library's registration or discovery.
struct Backing {
  asio::thread_pool pool{2};
  std::unique_ptr<Etcd> etcd;
  std::unique_ptr<Store> store;

  explicit Backing(bool on_etcd) {
    if (on_etcd) {
      etcd = std::make_unique<Etcd>();
      store = std::make_unique<etcd::Connector>(pool.get_executor(), connector_config(etcd->endpoint()));
    } else {
      store = std::make_unique<MemoryStore>(pool.get_executor());
    }
  }

  template <class T>
  T run(asio::awaitable<T> work) {
    return rig::run(pool, std::move(work));
  }

  std::vector<KeyValue> stored(const std::string& prefix = "/genesis/services/") {
    ListQuery query(KeyRange(prefix, prefix_end(prefix)));
    return run(store->backend()->list(std::move(query))).items;
  }

  void write(const std::string& key, std::optional<std::string> value, std::int64_t expected = 0) {
    std::vector<Write> writes;
    writes.emplace_back(key, std::move(value), 0, expected);
    REQUIRE(run(store->backend()->commit(std::move(writes))).results.at(0).applied);
  }
};

template <class Test>
void on_both(Test test) {
  SUBCASE("on the embedded store") {
    Backing backing(false);
    test(backing);
  }
  SUBCASE("on etcd") {
    Backing backing(true);
    test(backing);
  }
}

std::vector<std::string> ids(const std::vector<ServiceInstance>& instances) {
  std::vector<std::string> all;
  for (const auto& each : instances) all.push_back(each.id);
  return all;
}

using Strings = std::vector<std::string>;

}  // namespace

TEST_CASE("registry: a registered instance is stored as others expect it, and found") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    ServiceInstance self("user-service", "user-1");
    self.version = "v1.0.0";
    self.metadata = {{"zone", "a"}, {"weight", "100"}};
    self.endpoints = {"grpc://127.0.0.1:9001"};
    const auto registration = on.run(reg.register_instance(self, 30s));
    CHECK(registration.id == "user-1");
    CHECK(registration.ttl == 30s);

    const auto stored = on.stored();
    REQUIRE(stored.size() == 1);
    CHECK(stored[0].key == "/genesis/services/user-service/user-1");
    CHECK(stored[0].value ==
          R"({"id":"user-1","name":"user-service","version":"v1.0.0","metadata":{"weight":"100","zone":"a"},)"
          R"("endpoints":["grpc://127.0.0.1:9001"]})");
    CHECK(stored[0].lease == registration.lease);
    CHECK(stored[0].mod_revision == registration.revision);

    const auto found = on.run(reg.get_service("user-service"));
    REQUIRE(found.size() == 1);
    CHECK(found[0] == self);
    CHECK(on.run(reg.list_services()) == Strings{"user-service"});
    CHECK(on.run(reg.get_service("user")).empty());

    on.run(reg.close());
    CHECK(on.stored().empty());
  });
}

TEST_CASE("registry: filters by version and metadata") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    for (int i = 1; i <= 4; ++i) {
      auto each = instance("user-service", "user-" + std::to_string(i), i % 2 == 0 ? "v2" : "v1");
      each.metadata["zone"] = i <= 2 ? "a" : "b";
      on.run(reg.register_instance(each));
    }
    CHECK(ids(on.run(reg.get_service("user-service", ServiceFilter().version("v2")))) ==
          Strings{"user-2", "user-4"});
    const auto filter = ServiceFilter().version("v2").metadata("zone", "b");
    CHECK(ids(on.run(reg.get_service("user-service", filter))) == Strings{"user-4"});
    const auto view = on.run(reg.subscribe("user-service", filter));
    CHECK(view.snapshot()->instances.size() == 1);
    on.run(reg.close());
  });
}

TEST_CASE("registry: a watch begins with what is there, and then has every change in order") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    on.run(reg.register_instance(instance("user-service", "user-1")));
    EventLog log(on.pool, reg.watch("user-service"));
    CHECK(eventually([&] { return log.size() == 1; }));
    on.run(reg.register_instance(instance("user-service", "user-2")));
    on.run(reg.register_instance(instance("other-service", "other-1")));
    on.run(reg.update_instance(instance("user-service", "user-1", "v2")));
    on.run(reg.deregister("user-2"));
    CHECK(eventually([&] { return log.size() == 4; }));
    const auto events = log.all();
    REQUIRE(events.size() == 4);
    CHECK(events[0].service.id == "user-1");
    CHECK(events[1].service.id == "user-2");
    CHECK(events[2].service.version == "v2");
    CHECK(events[3].type == EventType::Delete);
    CHECK(events[3].service == instance("user-service", "user-2"));  // the last known one
    for (std::size_t i = 1; i < 4; ++i) {
      CHECK(events[i].revision > events[i - 1].revision);
      CHECK_FALSE(events[i].resynced);
    }
    on.run(reg.close());
    CHECK(eventually([&] { return log.ended(); }));
    CHECK_FALSE(log.error());
  });
}

TEST_CASE("registry: a filtered watch turns leaving the filter into Delete and entering it into Put") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    on.run(reg.register_instance(instance("user-service", "user-1", "v1")));
    EventLog log(on.pool, reg.watch("user-service", ServiceFilter().version("v2")));
    on.run(reg.update_instance(instance("user-service", "user-1", "v2")));
    CHECK(eventually([&] { return log.size() == 1; }));
    on.run(reg.update_instance(instance("user-service", "user-1", "v3")));
    CHECK(eventually([&] { return log.size() == 2; }));
    on.run(reg.deregister("user-1"));
    on.run(reg.register_instance(instance("user-service", "user-2", "v2")));
    CHECK(eventually([&] { return log.size() == 3; }));
    const auto events = log.all();
    CHECK(events[0].type == EventType::Put);
    CHECK(events[1].type == EventType::Delete);
    CHECK(events[2].service.id == "user-2");
    on.run(reg.close());
  });
}

TEST_CASE("registry: a view follows the service and tells when it is ready") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    auto view = on.run(reg.subscribe("user-service"));
    CHECK(view.snapshot()->instances.empty());
    CHECK_FALSE(view.snapshot()->stale);
    on.run(reg.register_instance(instance("user-service", "user-2")));
    on.run(reg.register_instance(instance("user-service", "user-1")));
    on.run(view.wait_ready(2));
    CHECK(view.snapshot()->instances[0]->id == "user-1");
    CHECK(view.snapshot()->find("user-2") != nullptr);
    on.run(reg.deregister("user-1"));
    CHECK(eventually([&] { return view.snapshot()->instances.size() == 1; }));
    on.run(reg.close());
    CHECK(view.snapshot()->stale);
  });
}

TEST_CASE("registry: an update keeps the lease") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    const auto registration = on.run(reg.register_instance(instance("user-service", "user-1")));
    on.run(reg.update_instance(instance("user-service", "user-1", "v2")));
    const auto stored = on.stored();
    REQUIRE(stored.size() == 1);
    CHECK(stored[0].lease == registration.lease);
    CHECK(stored[0].value == encode(instance("user-service", "user-1", "v2")));
    on.run(reg.close());
  });
}

TEST_CASE("registry: another TTL moves the key to another lease by one write, without a delete") {
  if (skip_without_etcd()) return;
  Backing on(true);
  Registry reg(*on.store, quick_config());
  RegistrationLog log(on.pool, reg.registration_events());
  RawEtcd raw({on.etcd->endpoint()});
  const auto first = on.run(reg.register_instance(instance("user-service", "user-1"), 30s));
  on.run(reg.register_instance(instance("user-service", "user-2"), 30s));
  CHECK(raw.leases() == std::vector<std::int64_t>{first.lease});
  Oracle oracle({on.etcd->endpoint()}, "/genesis/services/");
  const auto lease_of = [&](const std::string& id) {
    for (const auto& kv : on.stored()) {
      if (kv.key == key_of("user-service", id)) return kv.lease;
    }
    return std::int64_t{0};
  };

  on.run(reg.update_instance(instance("user-service", "user-1", "v2"), 60s));
  const auto second = lease_of("user-1");
  CHECK(second != first.lease);
  CHECK(lease_of("user-2") == first.lease);
  CHECK(raw.leases().size() == 2);                                        // the other one needs it
  on.run(reg.update_instance(instance("user-service", "user-1", "v3")));  // the TTL stays
  on.run(reg.update_instance(instance("user-service", "user-2"), 60s));
  CHECK(eventually([&] { return raw.leases() == std::vector<std::int64_t>{second}; }, "only the new lease"));
  CHECK(on.run(code_of(reg.update_instance(instance("user-service", "user-1"), -1s))) ==
        errc::invalid_argument);

  const auto events = oracle.finish();
  REQUIRE(events.size() == 3);
  for (const auto& event : events) {
    CHECK_FALSE(event.deleted);
    CHECK(event.lease == second);
  }
  CHECK(events[0].key == key_of("user-service", "user-1"));
  CHECK(events[2].key == key_of("user-service", "user-2"));
  CHECK(losses(log) == "");
  on.run(reg.close());
  CHECK(raw.leases().empty());
}

TEST_CASE(
    "registry: TTLs that change while the answers of etcd are lost: never a delete, and no lease is left "
    "over") {
  if (skip_without_etcd()) return;
  World world;
  RegistrationLog log(world.pool, world.reg.registration_events());
  RawEtcd raw({world.etcd.endpoint()});
  world.run(world.reg.register_instance(instance("user-service", "user-1"), 30s));
  Oracle oracle({world.etcd.endpoint()}, "/genesis/services/");
  for (int round = 0; round < 12; ++round) {
    // Of the grant, of the write or of the revocation, with what else comes on that connection.
    world.gate.cut_after(static_cast<std::size_t>(round) * 25);
    world.run(text_of(world.reg.update_instance(instance("user-service", "user-1", std::to_string(round)),
                                                round % 2 == 0 ? 60s : 30s)));
  }
  world.gate.pass();
  world.run(world.reg.update_instance(instance("user-service", "user-1", "last"), 90s));
  const auto stored = raw.list("/genesis/services/");
  REQUIRE(stored.size() == 1);
  CHECK(stored[0].value == encode(instance("user-service", "user-1", "last")));
  CHECK(eventually([&] { return raw.leases() == std::vector<std::int64_t>{stored[0].lease}; },
                   "no other lease"));
  const auto events = oracle.finish();
  CHECK(events.size() >= 13);
  for (const auto& event : events) CHECK_FALSE(event.deleted);
  CHECK(losses(log) == "");
  world.run(world.reg.close());
  CHECK(raw.leases().empty());
}

TEST_CASE("registry: instances share a lease, and what starts together is committed together") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    RegistrationLog log(on.pool, reg.registration_events());
    const auto before = on.stored().size();
    for (int i = 0; i < 300; ++i) {
      asio::co_spawn(on.pool, reg.register_instance(instance("user-service", "user-" + std::to_string(i))),
                     [](std::exception_ptr error, Registration) { CHECK_FALSE(error); });
    }
    CHECK(eventually([&] { return has_state(log, RegistrationState::Registered, 300); }));
    const auto stored = on.stored();
    REQUIRE(stored.size() == before + 300);
    std::int64_t lowest = stored[0].mod_revision, highest = lowest;
    for (const auto& each : stored) {
      CHECK(each.lease == stored[0].lease);
      lowest = std::min(lowest, each.mod_revision);
      highest = std::max(highest, each.mod_revision);
    }
    CHECK(highest - lowest < 30);
    on.run(reg.close());
    CHECK(on.stored().empty());
  });
}

TEST_CASE("registry: deregister removes only our own key") {
  on_both([](Backing& on) {
    Registry mine(*on.store, quick_config());
    Registry theirs(*on.store, quick_config());
    RegistrationLog log(on.pool, mine.registration_events());
    on.run(mine.register_instance(instance("user-service", "user-1")));
    on.run(theirs.register_instance(instance("user-service", "user-1", "theirs")));
    CHECK(eventually([&] { return has_state(log, RegistrationState::Displaced); }));
    on.run(code_of(mine.deregister("user-1")));
    on.run(mine.close());
    REQUIRE(on.stored().size() == 1);
    CHECK(on.stored()[0].value == encode(instance("user-service", "user-1", "theirs")));
    on.run(theirs.close());
  });
}

TEST_CASE("registry: on_conflict Fail leaves the holder alone") {
  on_both([](Backing& on) {
    Registry first(*on.store, quick_config());
    auto config = quick_config();
    config.on_conflict = ConflictPolicy::Fail;
    Registry second(*on.store, config);
    on.run(first.register_instance(instance("user-service", "user-1")));
    CHECK(on.run(code_of(second.register_instance(instance("user-service", "user-1", "v2")))) ==
          errc::conflict);
    CHECK(on.stored()[0].value == encode(instance("user-service", "user-1")));
    on.run(first.close());
    on.run(second.register_instance(instance("user-service", "user-1", "v2")));
    on.run(second.close());
  });
}

TEST_CASE("registry: registration events begin with the current states and end with the registry") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    on.run(reg.register_instance(instance("user-service", "user-1")));
    RegistrationLog log(on.pool, reg.registration_events());
    CHECK(eventually([&] { return has_state(log, RegistrationState::Registered); }));
    on.run(reg.close());
    CHECK(eventually([&] { return log.ended(); }));
    CHECK(has_state(log, RegistrationState::Closed));
  });
}

TEST_CASE("registry: group and namespace are levels of the key, and keep services apart") {
  on_both([](Backing& on) {
    auto config = quick_config();
    config.name_space = "/my/services";
    config.group = "blue";
    Registry blue(*on.store, config);
    config.group = "green";
    Registry green(*on.store, config);
    on.run(blue.register_instance(instance("user-service", "user-1")));
    CHECK(on.stored("/my/")[0].key == "/my/services/blue/user-service/user-1");
    CHECK(on.run(blue.get_service("user-service")).size() == 1);
    CHECK(on.run(green.get_service("user-service")).empty());
    CHECK(on.run(green.list_services()).empty());
    on.run(blue.close());
    on.run(green.close());
  });
}

TEST_CASE("registry: bad input gets a clear error and loses nothing") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    on.run(reg.register_instance(instance("user-service", "user-1")));
    const auto revision = on.stored()[0].mod_revision;

    const auto refused = [&](auto work, const std::string& part) {
      const std::string text = on.run(text_of(std::move(work)));
      CAPTURE(text);
      CAPTURE(part);
      CHECK(text.find(part) != std::string::npos);
      CHECK(text.find("invalid argument") != std::string::npos);
    };
    refused(reg.register_instance(instance("user-service", "")), "id = \"\"");
    refused(reg.register_instance(instance("user/service", "user-2")), "name = \"user/service\"");
    refused(reg.register_instance(instance("user-service", "a/b")), "id = \"a/b\"");
    refused(reg.register_instance(ServiceInstance("user-service", "user-2")), "endpoint");
    auto without_port = instance("user-service", "user-2");
    without_port.endpoints = {"10.0.0.5"};
    refused(reg.register_instance(without_port), "\"10.0.0.5\"");
    refused(reg.register_instance(instance("user-service", "user-2"), -5s), "-5");
    refused(reg.register_instance(instance("user-service", "user-2"), std::chrono::seconds(99'000'000'000)),
            "99000000000");
    refused(reg.get_service(""), "name");
    refused(reg.subscribe("a/b"), "name");
    refused(reg.update_instance(instance("other-service", "user-1")), "user-1");
    CHECK_THROWS_AS(reg.watch("").try_next(), std::system_error);

    CHECK(on.run(code_of(reg.register_instance(instance("user-service", "user-1")))) ==
          errc::already_registered);
    CHECK(on.run(code_of(reg.update_instance(instance("user-service", "user-2")))) == errc::not_registered);
    CHECK(on.run(code_of(reg.deregister("user-2"))) == errc::not_registered);

    REQUIRE(on.stored().size() == 1);
    CHECK(on.stored()[0].mod_revision == revision);
    on.run(reg.close());
  });
}

TEST_CASE("registry: after close everything says so") {
  on_both([](Backing& on) {
    Registry reg(*on.store, quick_config());
    on.run(reg.close());
    on.run(reg.close());
    CHECK(on.run(code_of(reg.register_instance(instance("user-service", "user-1")))) == errc::closed);
    CHECK(on.run(code_of(reg.update_instance(instance("user-service", "user-1")))) == errc::closed);
    CHECK(on.run(code_of(reg.deregister("user-1"))) == errc::closed);
    CHECK(on.run(code_of(reg.get_service("user-service"))) == errc::closed);
    CHECK(on.run(code_of(reg.subscribe("user-service"))) == errc::closed);
    auto events = reg.watch("user-service");
    CHECK_FALSE(on.run(events.next()));
    auto states = reg.registration_events();
    CHECK_FALSE(on.run(states.next()));
  });
}

TEST_CASE("registry: bad settings are refused by name") {
  asio::io_context io;
  MemoryStore store(io.get_executor());
  const auto text = [&](auto change) {
    RegistryConfig config;
    change(config);
    try {
      Registry reg(store, config);
    } catch (const std::system_error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(text([](auto& c) { c.name_space = "services"; }).find("name_space") != std::string::npos);
  CHECK(text([](auto& c) { c.group = "a/b"; }).find("group") != std::string::npos);
  CHECK(text([](auto& c) { c.default_ttl = 0s; }).find("default_ttl") != std::string::npos);
  CHECK(text([](auto& c) { c.retry_interval = -1ms; }).find("retry_interval") != std::string::npos);
}
