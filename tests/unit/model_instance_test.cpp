// ServiceInstance's typed metadata, ServiceFilter, and finding an instance in a snapshot.
#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "registry/model/config.hpp"
#include "registry/model/event.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/snapshot.hpp"

using registry::InstanceStatus;
using registry::ServiceFilter;
using registry::ServiceInstance;

TEST_CASE("instance: the constructor takes the service first, the id second") {
  const ServiceInstance self("user-service", "user-1");
  CHECK(self.name == "user-service");
  CHECK(self.id == "user-1");
}

TEST_CASE("instance: weight is bounded, and what is not a weight is 1") {
  ServiceInstance one("s", "i");
  CHECK(one.weight() == 1);
  const std::pair<const char*, std::uint32_t> cases[] = {
      {"100", 100}, {"0", 0},   {"65535", 65535}, {"65536", 65535}, {"99999999999999999999999", 65535},
      {"-1", 1},    {"+5", 1},  {"", 1},          {"abc", 1},       {"5x", 1},
      {" 5", 1},    {"1.5", 1}, {"0x10", 1},      {"1e3", 1},       {"99999999999999999999999x", 1}};
  for (const auto& [text, weight] : cases) {
    CAPTURE(text);
    one.metadata["weight"] = text;
    CHECK(one.weight() == weight);
  }
}

TEST_CASE("instance: only two texts take an instance out of traffic") {
  ServiceInstance one("s", "i");
  CHECK(one.status() == InstanceStatus::Up);
  one.metadata["status"] = "disabled";
  CHECK(one.status() == InstanceStatus::Disabled);
  one.metadata["status"] = "draining";
  CHECK(one.status() == InstanceStatus::Draining);
  for (const char* text : {"", "up", "1", "disable", "disabled "}) {
    one.metadata["status"] = text;
    CHECK(one.status() == InstanceStatus::Up);
  }
}

TEST_CASE("instance: region and zone, and equality over every field") {
  ServiceInstance one("s", "i");
  CHECK(one.zone().empty());
  one.metadata = {{"zone", "a"}, {"region", "eu"}};
  CHECK(one.zone() == "a");
  CHECK(one.region() == "eu");
  ServiceInstance other = one;
  CHECK(other == one);
  other.endpoints.push_back("h:1");
  CHECK(other != one);
  other = one;
  other.version = "v2";
  CHECK(other != one);
}

TEST_CASE("filter: all conditions must hold, and the default lets everything pass") {
  ServiceInstance one("s", "i");
  one.version = "v1";
  one.metadata = {{"zone", "a"}, {"tier", "gold"}};
  CHECK(ServiceFilter{}.matches(one));
  CHECK(ServiceFilter{}.any());
  CHECK(ServiceFilter{}.version("v1").matches(one));
  CHECK_FALSE(ServiceFilter{}.version("v2").matches(one));
  CHECK_FALSE(ServiceFilter{}.version("").matches(one));
  CHECK(ServiceFilter{}.version("v1").metadata("zone", "a").metadata("tier", "gold").matches(one));
  CHECK_FALSE(ServiceFilter{}.metadata("zone", "a").metadata("tier", "silver").matches(one));
  CHECK_FALSE(ServiceFilter{}.metadata("absent", "").matches(one));
  CHECK_FALSE(ServiceFilter{}.version("v1").any());
  CHECK_FALSE(ServiceFilter{}.metadata("zone", "a").any());
  // Setting a condition again replaces it; built step by step it is the same filter.
  ServiceFilter steps;
  steps.metadata("zone", "b").version("v9");
  steps.metadata("zone", "a").version("v1");
  CHECK(steps == ServiceFilter{}.version("v1").metadata("zone", "a"));
  CHECK(steps != ServiceFilter{}.version("v1"));
}

TEST_CASE("snapshot: find by id") {
  registry::ServiceSnapshot list("s");
  CHECK(list.find("a") == nullptr);
  for (const char* id : {"a", "c", "e"}) {
    list.instances.push_back(std::make_shared<const ServiceInstance>("s", id));
  }
  for (const char* id : {"a", "c", "e"}) {
    REQUIRE(list.find(id) != nullptr);
    CHECK(list.find(id)->id == id);
  }
  for (const char* id : {"", "b", "d", "f"}) CHECK(list.find(id) == nullptr);
}

TEST_CASE("no type that travels into an awaitable is an aggregate") {
  CHECK_FALSE(std::is_aggregate_v<ServiceInstance>);
  CHECK_FALSE(std::is_aggregate_v<ServiceFilter>);
  CHECK_FALSE(std::is_aggregate_v<registry::ServiceEvent>);
  CHECK_FALSE(std::is_aggregate_v<registry::ServiceSnapshot>);
  CHECK_FALSE(std::is_aggregate_v<registry::Registration>);
  CHECK_FALSE(std::is_aggregate_v<registry::RegistrationEvent>);
  CHECK_FALSE(std::is_aggregate_v<registry::RegistryConfig>);
}
