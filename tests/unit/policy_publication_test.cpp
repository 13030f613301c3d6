// What is published of a service: addresses, weights, zones, subsets, and the split among versions.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "registry/model/endpoint.hpp"
#include "registry/policy/publication.hpp"
#include "registry/policy/traffic_split.hpp"
#include "rig/seed.hpp"

using namespace registry;

namespace {

using Instances = std::vector<std::shared_ptr<const ServiceInstance>>;
using Metadata = std::map<std::string, std::string>;

std::shared_ptr<ServiceInstance> instance(std::string id, std::vector<std::string> endpoints,
                                          Metadata metadata = {}) {
  auto made = std::make_shared<ServiceInstance>("svc", std::move(id));
  made->endpoints = std::move(endpoints);
  made->metadata = std::move(metadata);
  return made;
}

/// As if every host were a literal or unresolved.
std::vector<ResolvedAddress> literal(const ServiceInstance& instance) {
  std::vector<ResolvedAddress> made;
  for (const std::string& text : instance.endpoints) {
    if (const auto endpoint = parse_endpoint(text)) made.emplace_back(endpoint->host, endpoint->port);
  }
  return made;
}

EndpointAssignment assign(const Instances& instances, const PublicationRule& rule = {}) {
  return assign_endpoints(instances, literal, rule);
}

/// "0: region/zone/sub_zone *weight ip:port*weight ..." for each locality, a line each.
std::string shown(const EndpointAssignment& assignment) {
  std::string text;
  for (std::size_t priority = 0; priority < assignment.priorities.size(); ++priority) {
    for (const PublishedLocality& locality : assignment.priorities[priority]) {
      text += (text.empty() ? "" : "\n") + std::to_string(priority) + ": " + locality.region + "/" +
              locality.zone + "/" + locality.sub_zone + " *" + std::to_string(locality.weight);
      for (const PublishedEndpoint& endpoint : locality.endpoints) {
        text += " " + endpoint.ip + ":" + std::to_string(endpoint.port);
        if (endpoint.weight != 1) text += "*" + std::to_string(endpoint.weight);
      }
    }
  }
  return text;
}

std::string address(std::size_t number) {
  return "10." + std::to_string(number >> 16 & 255) + "." + std::to_string(number >> 8 & 255) + "." +
         std::to_string(number & 255) + ":80";
}

std::string id_of(std::size_t number) {
  const std::string digits = std::to_string(number);
  return "i" + std::string(6 - digits.size(), '0') + digits;
}

Instances many(std::size_t count) {
  Instances made;
  for (std::size_t i = 0; i < count; ++i) made.push_back(instance(id_of(i), {address(i)}));
  return made;
}

std::set<std::string> ips(const EndpointAssignment& assignment) {
  std::set<std::string> made;
  for (const auto& priority : assignment.priorities) {
    for (const auto& locality : priority) {
      for (const auto& endpoint : locality.endpoints)
        made.insert(endpoint.ip + ":" + std::to_string(endpoint.port));
    }
  }
  return made;
}

PublicationRule rule_of(Balancing balancing, std::string client = "") {
  PublicationRule rule;
  rule.balancing = balancing;
  rule.client = std::move(client);
  return rule;
}

/// What gRPC would refuse, or crash on.
void check_valid(const EndpointAssignment& assignment) {
  std::set<std::pair<std::string, std::uint16_t>> addresses;
  for (const auto& priority : assignment.priorities) {
    REQUIRE_FALSE(priority.empty());
    std::set<std::string> names;
    std::uint64_t sum = 0;
    for (const PublishedLocality& locality : priority) {
      REQUIRE(names.insert(locality.region + "\n" + locality.zone + "\n" + locality.sub_zone).second);
      REQUIRE(locality.weight > 0);
      sum += locality.weight;
      REQUIRE_FALSE(locality.endpoints.empty());
      std::uint64_t inner = 0;
      for (const PublishedEndpoint& endpoint : locality.endpoints) {
        REQUIRE(addresses.emplace(endpoint.ip, endpoint.port).second);
        REQUIRE(endpoint.port != 0);
        REQUIRE(endpoint.weight > 0);
        REQUIRE(detail::parse_ip(endpoint.ip));
        inner += endpoint.weight;
      }
      REQUIRE(inner <= 0xFFFF'FFFFu);
    }
    REQUIRE(sum <= 0xFFFF'FFFFu);
  }
}

}  // namespace

TEST_CASE("publication: equal weights are one locality; nobody at all is no priority") {
  CHECK(assign({}).empty());
  const Instances two = {instance("a", {"grpc://10.0.0.1:80"}), instance("b", {"10.0.0.2:80"})};
  CHECK(shown(assign(two)) == "0: //weight-1 *2 10.0.0.1:80 10.0.0.2:80");
  CHECK(assign(two) == assign(two));
  CHECK(assign(two) != assign({two[0]}));
}

TEST_CASE(
    "publication: who wants no calls is out, and the last of them leaves nothing, not an empty locality") {
  const Instances all = {instance("a", {"10.0.0.1:80"}, {{"status", "disabled"}}),
                         instance("b", {"10.0.0.2:80"}, {{"status", "draining"}}),
                         instance("c", {"10.0.0.3:80"}, {{"weight", "0"}}), instance("d", {}),
                         instance("e", {"10.0.0.5:80"})};
  CHECK(shown(assign(all)) == "0: //weight-1 *1 10.0.0.5:80");
  for (const Balancing balancing : {Balancing::RoundRobin, Balancing::PickFirst, Balancing::RingHash}) {
    CHECK(assign({all[0], all[1], all[2], all[3]}, rule_of(balancing)).empty());
  }
}

TEST_CASE("publication: one bad address loses neither the others of its instance nor those of others") {
  std::map<std::string, std::vector<ResolvedAddress>> found;
  found["a"] = {{"localhost", 80}, {"/tmp/x.sock", 1}, {"10.0.0.1", 0}, {"10.0.0.1", 80}};
  found["b"] = {{"", 80}, {"10.0.0.256", 80}, {"010.0.0.1", 80}, {"1.2.3", 80}, {"fe80::1%eth0", 80}};
  found["c"] = {{"0.0.0.0", 80}, {"::", 80}, {"::ffff:0.0.0.0", 80}, {std::string("10.0.0.9\0x", 10), 80}};
  found["d"] = {{"2001:DB8:0:0::1", 80}, {"10.0.0.4", 80}};
  const Instances all = {instance("a", {}), instance("b", {}), instance("c", {}), instance("d", {})};
  const auto lookup = [&](const ServiceInstance& each) -> const auto& { return found[each.id]; };
  CHECK(shown(assign_endpoints(all, lookup, {})) ==
        "0: //weight-1 *1 10.0.0.1:80\n"
        "0: //weight-1/2 *1 2001:db8::1:80 10.0.0.4:80");
}

TEST_CASE("publication: an address is there once, in any spelling; it belongs to the first id") {
  const Instances all = {
      instance("a", {"10.0.0.1:80"}, {{"weight", "3"}, {"status", "draining"}}),
      instance("b", {"10.0.0.1:80", "10.0.0.1:80"}, {{"weight", "2"}}),
      instance("c", {"[::ffff:10.0.0.1]:80", "[fd00::1]:80"}, {{"weight", "2"}}),
      instance("d", {"[FD00:0::0001]:80", "grpc://10.0.0.1:80"}, {{"weight", "9"}}),
      instance("e", {"10.0.0.1:81"}, {{"weight", "2"}}),
  };
  CHECK(shown(assign(all)) == "0: //weight-2 *6 10.0.0.1:80 fd00::1:80 10.0.0.1:81");
}

TEST_CASE("publication: a locality for each weight, its name the same whoever else is there") {
  const Instances all = {instance("a", {"10.0.0.1:80"}, {{"weight", "9"}}), instance("b", {"10.0.0.2:80"}),
                         instance("c", {"10.0.0.3:80"}, {{"weight", "9"}})};
  CHECK(shown(assign(all)) ==
        "0: //weight-1 *1 10.0.0.2:80\n"
        "0: //weight-9 *18 10.0.0.1:80 10.0.0.3:80");
  CHECK(shown(assign({all[0]})) == "0: //weight-9 *9 10.0.0.1:80");
}

TEST_CASE("publication: several addresses share their instance's weight") {
  const Instances all = {instance("a", {"10.0.0.1:80", "10.1.0.1:80"}, {{"weight", "6"}}),
                         instance("b", {"10.0.0.2:80"}, {{"weight", "3"}}),
                         instance("c", {"10.0.0.3:80", "10.1.0.3:80", "10.2.0.3:80"}, {{"weight", "4"}})};
  CHECK(shown(assign(all)) ==
        "0: //weight-3 *9 10.0.0.1:80 10.1.0.1:80 10.0.0.2:80\n"
        "0: //weight-4/3 *4 10.0.0.3:80 10.1.0.3:80 10.2.0.3:80");
  CHECK(
      shown(assign(all, rule_of(Balancing::RingHash))) ==
      "0: //ring *1 10.0.0.1:80*18 10.1.0.1:80*18 10.0.0.2:80*18 10.0.0.3:80*8 10.1.0.3:80*8 10.2.0.3:80*8");
}

TEST_CASE("publication: own zone, own region, the rest; empty ones leave no gap") {
  const Instances all = {instance("a", {"10.0.0.1:80"}, {{"region", "eu"}, {"zone", "eu-1"}}),
                         instance("b", {"10.0.0.2:80"}, {{"region", "eu"}, {"zone", "eu-2"}}),
                         instance("c", {"10.0.0.3:80"}, {{"region", "us"}, {"zone", "us-1"}}),
                         instance("d", {"10.0.0.4:80"}, {{"zone", "eu-1"}}),
                         instance("e", {"10.0.0.5:80"}),
                         instance("f", {"10.0.0.6:80"}, {{"region", "us"}, {"zone", "eu-1"}})};
  PublicationRule rule;
  rule.region = "eu";
  rule.zone = "eu-1";
  CHECK(shown(assign(all, rule)) ==
        "0: eu/eu-1/weight-1 *2 10.0.0.1:80 10.0.0.4:80\n"
        "1: eu//weight-1 *1 10.0.0.2:80\n"
        "2: //weight-1 *3 10.0.0.3:80 10.0.0.5:80 10.0.0.6:80");
  // The names stay when a priority goes: gRPC keeps what it has of the others.
  CHECK(shown(assign({all[1], all[2]}, rule)) ==
        "0: eu//weight-1 *1 10.0.0.2:80\n"
        "1: //weight-1 *1 10.0.0.3:80");
  CHECK(shown(assign({all[2]}, rule)) == "0: //weight-1 *1 10.0.0.3:80");
  rule.balancing = Balancing::RingHash;
  CHECK(assign(all, rule).priorities.size() == 3);
  rule.region.clear();  // a zone alone
  rule.balancing = Balancing::RoundRobin;
  CHECK(shown(assign({all[0], all[1], all[3]}, rule)) ==
        "0: /eu-1/weight-1 *2 10.0.0.1:80 10.0.0.4:80\n"
        "1: //weight-1 *1 10.0.0.2:80");
  rule.region = "eu";  // a region alone
  rule.zone.clear();
  CHECK(shown(assign({all[0], all[1], all[4]}, rule)) ==
        "0: eu//weight-1 *2 10.0.0.1:80 10.0.0.2:80\n"
        "1: //weight-1 *1 10.0.0.5:80");
}

TEST_CASE("publication: a filter and a version") {
  auto canary = instance("b", {"10.0.0.2:80"}, {{"pool", "x"}});
  canary->version = "v2";
  const Instances all = {instance("a", {"10.0.0.1:80"}, {{"pool", "x"}}), canary,
                         instance("c", {"10.0.0.3:80"})};
  PublicationRule rule;
  rule.filter.metadata("pool", "x");
  CHECK(shown(assign(all, rule)) == "0: //weight-1 *2 10.0.0.1:80 10.0.0.2:80");
  rule.version = "v2";
  CHECK(shown(assign(all, rule)) == "0: //weight-1 *1 10.0.0.2:80");
  rule.version = "";
  CHECK(shown(assign(all, rule)) == "0: //weight-1 *1 10.0.0.1:80");
}

TEST_CASE(
    "publication: pick first goes by id, or by an order of the client's own, the own zone first; bounded") {
  const Instances all = many(50);
  PublicationRule rule = rule_of(Balancing::PickFirst);
  CHECK(shown(assign({all[0], all[1]}, rule)) == "0: //i000000 *1 10.0.0.0:80\n1: //i000001 *1 10.0.0.1:80");
  CHECK(assign(all, rule).priorities.size() == rule.max_priorities);
  rule.max_priorities = 0;
  CHECK(assign(all, rule).priorities.size() == 1);
  rule.max_priorities = 3;
  std::set<std::string> firsts;
  for (int client = 0; client < 200; ++client) {
    rule.client = "client-" + std::to_string(client);
    const EndpointAssignment order = assign(all, rule);
    CHECK(order == assign(all, rule));
    const std::string first = order.priorities[0][0].sub_zone;
    firsts.insert(first);
    // The first one leaves: the next ones move up, nobody else moves.
    Instances left = all;
    std::erase_if(left, [&](const auto& each) { return each->id == first; });
    CHECK(assign(left, rule).priorities[0] == order.priorities[1]);
    CHECK(assign(left, rule).priorities[1] == order.priorities[2]);
  }
  CHECK(firsts.size() > 40);  // of 50; 49 on average
  rule.zone = "here";
  const Instances with_own = {all[0], all[1], all[2], instance("z", {"10.9.9.9:80"}, {{"zone", "here"}})};
  CHECK(assign(with_own, rule).priorities[0][0].sub_zone == "z");
  CHECK(assign(with_own, rule).priorities[0][0].zone == "here");
}

TEST_CASE("publication: pick first spreads clients by weight") {
  const Instances all = {instance("a", {"10.0.0.1:80"}), instance("b", {"10.0.0.2:80"}, {{"weight", "3"}})};
  int heavy = 0;
  for (int client = 0; client < 4000; ++client) {
    const PublicationRule rule = rule_of(Balancing::PickFirst, "c" + std::to_string(client));
    heavy += assign(all, rule).priorities[0][0].sub_zone == "b" ? 1 : 0;
  }
  CHECK(heavy > 2850);  // 3000 expected, 27 the standard deviation; the outcome is the same in every run
  CHECK(heavy < 3150);
}

TEST_CASE("publication: an id that is not text makes no message that gRPC refuses") {
  const EndpointAssignment made =
      assign({instance("\xFF\xFE", {"10.0.0.1:80"})}, rule_of(Balancing::PickFirst));
  CHECK(detail::is_utf8(made.priorities[0][0].sub_zone));
}

TEST_CASE("publication: weights add up in 32 bits and keep their proportions") {
  Instances all = many(70'000);
  for (auto& each : all) {
    auto heavy = std::make_shared<ServiceInstance>(*each);
    heavy->metadata["weight"] = "65535";
    each = heavy;
  }
  all.push_back(instance("light", {"11.0.0.1:80"}));
  all.push_back(instance("middle", {"11.0.0.2:80", "11.0.0.3:80"}, {{"weight", "32768"}}));
  PublicationRule rule;
  rule.max_endpoints = 0;
  const EndpointAssignment made = assign(all, rule);
  check_valid(made);
  REQUIRE(made.priorities[0].size() == 3);
  CHECK(made.priorities[0][0].sub_zone == "weight-1");
  CHECK(made.priorities[0][0].weight == 1);
  CHECK(static_cast<double>(made.priorities[0][2].weight) / made.priorities[0][1].weight ==
        doctest::Approx(70'000 * 65'535.0 / 32'768).epsilon(0.001));
  rule.balancing = Balancing::RingHash;
  check_valid(assign(all, rule));
}

TEST_CASE("subset: of the size asked for, the same each time, the own zone first") {
  Instances all = many(1000);
  for (std::size_t i = 0; i < 1000; i += 10) {
    auto near = std::make_shared<ServiceInstance>(*all[i]);
    near->metadata["zone"] = "here";
    all[i] = near;
  }
  PublicationRule rule = rule_of(Balancing::RoundRobin, "client");
  rule.max_endpoints = 150;
  rule.zone = "here";
  const EndpointAssignment made = assign(all, rule);
  check_valid(made);
  CHECK(ips(made).size() == 150);
  REQUIRE(made.priorities.size() == 2);
  CHECK(made.priorities[0][0].endpoints.size() == 100);
  CHECK(std::is_sorted(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->id < b->id; }));
  CHECK(made == assign(all, rule));
  rule.max_endpoints = 60;
  CHECK(assign(all, rule).priorities.size() == 1);
  rule.max_endpoints = 1000;
  CHECK(ips(assign(all, rule)).size() == 1000);
  rule.max_endpoints = 0;
  CHECK(ips(assign(all, rule)).size() == 1000);
}

TEST_CASE(
    "subset: several addresses of an instance count each, and never more than asked for are published") {
  Instances all;
  for (std::size_t i = 0; i < 100; ++i) {
    all.push_back(instance(id_of(i), {address(3 * i), address(3 * i + 1), address(3 * i + 2)}));
  }
  for (const Balancing balancing : {Balancing::RoundRobin, Balancing::RingHash}) {
    PublicationRule rule = rule_of(balancing, "client");
    for (rule.max_endpoints = 1; rule.max_endpoints < 20; ++rule.max_endpoints) {
      const EndpointAssignment made = assign(all, rule);
      check_valid(made);
      CHECK(ips(made).size() == rule.max_endpoints);
    }
  }
}

TEST_CASE("subset: one instance comes or goes: at most one other is exchanged for it") {
  std::mt19937_64 random(rig::test_seed("publication"));
  Instances all = many(400);
  PublicationRule rule = rule_of(Balancing::RoundRobin, "client-" + std::to_string(random()));
  rule.max_endpoints = 100;
  std::set<std::string> before = ips(assign(all, rule));
  int moved = 0;
  for (std::size_t round = 0; round < 200; ++round) {
    if (random() % 2 == 0) {
      all.push_back(instance("j" + id_of(round), {address(1000 + round)}));
    } else {
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(random() % all.size()));
    }
    const std::set<std::string> after = ips(assign(all, rule));
    std::vector<std::string> gone, come;
    std::set_difference(before.begin(), before.end(), after.begin(), after.end(), std::back_inserter(gone));
    std::set_difference(after.begin(), after.end(), before.begin(), before.end(), std::back_inserter(come));
    REQUIRE(gone.size() <= 1);
    REQUIRE(come.size() == gone.size());
    moved += static_cast<int>(come.size());
    before = after;
  }
  CHECK(moved < 100);  // a quarter of 200 expected
}

TEST_CASE("subset: clients spread over all instances as evenly as chance allows") {
  const std::uint64_t seed = rig::test_seed("publication");
  const Instances all = many(200);
  std::map<std::string, int> clients_of;
  for (int client = 0; client < 1000; ++client) {
    PublicationRule rule =
        rule_of(Balancing::RoundRobin, "host-" + std::to_string(seed) + "/" + std::to_string(client));
    rule.max_endpoints = 50;
    for (const std::string& ip : ips(assign(all, rule))) ++clients_of[ip];
  }
  CHECK(clients_of.size() == 200);
  double squares = 0;
  for (const auto& [ip, count] : clients_of) {
    CHECK(count > 160);  // 250 expected, 13.7 the standard deviation: more than 6 of them away
    CHECK(count < 340);
    squares += (count - 250.0) * (count - 250.0) / (1000 * 0.25 * 0.75);
  }
  CHECK(squares / 200 < 1.6);  // 1 by chance, with a deviation of 0.1
}

TEST_CASE(
    "publication: random services: nothing that gRPC refuses, nobody forgotten, shares by weight, 300 "
    "rounds") {
  std::mt19937_64 random(rig::test_seed("publication"));
  const auto pick = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const std::vector<std::string> regions = {"", "eu", "us"}, zones = {"", "eu-1", "eu-2", "us-1"},
                                 status = {"", "up", "disabled", "draining"},
                                 hosts = {"10.0.0.", "[fd00::", "name-"};
  for (int round = 0; round < 300; ++round) {
    Instances all;
    std::set<std::string> expected;
    for (std::size_t i = 0, count = pick(60); i < count; ++i) {
      std::vector<std::string> endpoints;
      for (std::size_t n = pick(4); n > 0; --n) {
        const std::string& host = hosts[pick(hosts.size())];
        endpoints.push_back(host + std::to_string(1 + pick(60)) + (host[0] == '[' ? "]:" : ":") +
                            std::to_string(80 + pick(2)));
      }
      Metadata metadata = {
          {"region", regions[pick(3)]}, {"zone", zones[pick(4)]}, {"weight", std::to_string(pick(4))}};
      if (pick(4) == 0) metadata["status"] = status[pick(4)];
      all.push_back(instance(id_of(i), endpoints, metadata));
      if (all.back()->weight() == 0 || all.back()->status() != InstanceStatus::Up) continue;
      for (const auto& each : literal(*all.back())) {
        if (each.ip[0] != 'n') expected.insert(each.ip + ":" + std::to_string(each.port));
      }
    }
    PublicationRule rule = rule_of(static_cast<Balancing>(pick(3)), "client");
    rule.region = regions[pick(3)];
    rule.zone = zones[pick(4)];
    rule.max_priorities = 1000;
    rule.max_endpoints = pick(2) == 0 ? 0 : 1 + pick(60);
    const EndpointAssignment made = assign(all, rule);
    check_valid(made);
    REQUIRE(made == assign(all, rule));
    const std::set<std::string> published = ips(made);
    if (rule.max_endpoints == 0 || rule.balancing == Balancing::PickFirst) {
      REQUIRE(published == expected);
    } else {
      REQUIRE(published.size() == std::min(expected.size(), rule.max_endpoints));
      REQUIRE(std::includes(expected.begin(), expected.end(), published.begin(), published.end()));
    }
    if (rule.balancing != Balancing::PickFirst) REQUIRE(made.priorities.size() <= 3);
    if (rule.balancing == Balancing::RingHash) {
      for (const auto& priority : made.priorities) REQUIRE(priority.size() == 1);
    }
  }
}

TEST_CASE("traffic split: the shares as configured, with their sum") {
  const auto everyone = [](const std::string&) { return true; };
  const TrafficSplit split = split_traffic({{"v1", 90}, {"v2", 10}, {"v3", 0}}, everyone);
  CHECK(split.versions == std::vector<VersionWeight>{{"v1", 90}, {"v2", 10}});
  CHECK(split.total == 100);
  CHECK(split_traffic({}, everyone).empty());
  CHECK(split_traffic({{"v1", 0}}, everyone).empty());
}

TEST_CASE(
    "traffic split: a version without an instance leaves its share to the others; with none, as configured") {
  const std::map<std::string, std::uint32_t> shares = {{"v1", 60}, {"v2", 30}, {"v3", 10}, {"off", 0}};
  const auto but = [&](std::set<std::string> out) {
    return split_traffic(shares, [&](const std::string& version) { return !out.contains(version); });
  };
  CHECK(but({"v2"}).versions == std::vector<VersionWeight>{{"v1", 60}, {"v3", 10}});
  CHECK(but({"v2"}).total == 70);
  CHECK(but({"v1", "v3"}).versions == std::vector<VersionWeight>{{"v2", 30}});
  CHECK(but({"v1", "v2", "v3"}) == but({}));  // "off" has an instance, and still wants nothing
  CHECK(but({}).total == 100);
}

TEST_CASE("traffic split: the sum fits 32 bits and is exact") {
  const auto everyone = [](const std::string&) { return true; };
  const TrafficSplit split =
      split_traffic({{"a", 4'294'967'295u}, {"b", 4'294'967'295u}, {"c", 1}}, everyone);
  std::uint64_t sum = 0;
  for (const auto& each : split.versions) {
    CHECK(each.weight > 0);
    sum += each.weight;
  }
  CHECK(sum == split.total);
  CHECK(split.versions[0].weight == split.versions[1].weight);
}
