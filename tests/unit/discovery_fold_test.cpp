// What a slow watcher is told: folding must never change where a consumer ends up.
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>

#include "registry/policy/event_fold.hpp"
#include "rig/seed.hpp"

using namespace registry;

namespace {

using Instance = std::shared_ptr<const ServiceInstance>;

Instance instance(const std::string& id, const std::string& version) {
  auto made = std::make_shared<ServiceInstance>("svc", id);
  made->version = version;
  return made;
}

InstanceChange change(Instance before, Instance after, std::int64_t revision) {
  return InstanceChange(std::move(before), std::move(after), revision, false);
}

std::string drain(EventFold& fold) {
  std::string log;
  while (const auto event = fold.pop()) {
    log += (event->type == EventType::Put ? "+" : "-") + event->instance->id + event->instance->version;
    log += event->resynced ? "~ " : " ";
  }
  return log;
}

}  // namespace

TEST_CASE("event fold: every change in order until the queue is full, then the newest of each instance") {
  const Instance a1 = instance("a", "1"), a2 = instance("a", "2"), b1 = instance("b", "1"),
                 c1 = instance("c", "1");
  EventFold fold({}, 4);
  fold.push(change(nullptr, a1, 1));
  fold.push(change(nullptr, b1, 2));
  fold.push(change(a1, a2, 3));
  fold.push(change(nullptr, c1, 4));
  SUBCASE("not full") { CHECK(drain(fold) == "+a1 +b1 +a2 +c1 "); }
  SUBCASE("full: order of the newest, folded ones marked") {
    fold.push(change(c1, nullptr, 5));  // came and went unseen
    CHECK(drain(fold) == "+b1 +a2~ ");
  }
  SUBCASE("what the consumer was given is taken from it") {
    CHECK(fold.pop()->instance == a1);
    fold.push(change(a2, nullptr, 5));
    fold.push(change(c1, nullptr, 6));
    CHECK(drain(fold) == "+b1 -a2~ ");
  }
  SUBCASE("what follows an instance that came and went unseen is marked, until the queue is empty") {
    fold.push(change(c1, nullptr, 5));
    fold.push(change(nullptr, c1, 6));
    fold.push(change(b1, nullptr, 7));
    CHECK(drain(fold) == "+a2~ +c1~ ");
    fold.push(change(nullptr, b1, 8));
    CHECK(drain(fold) == "+b1 ");
  }
  SUBCASE("drained, it starts over") {
    fold.push(change(c1, nullptr, 5));
    drain(fold);
    fold.push(change(a2, a1, 6));
    fold.push(change(a1, a2, 7));
    CHECK(drain(fold) == "+a1 +a2 ");
  }
}

TEST_CASE("event fold: entering and leaving the filter") {
  EventFold fold(ServiceFilter().version("1"), 100);
  const Instance a1 = instance("a", "1"), a2 = instance("a", "2");
  fold.push(change(nullptr, a2, 1));
  CHECK(fold.empty());
  fold.push(change(a2, a1, 2));
  fold.push(change(a1, a2, 3));
  fold.push(change(a2, nullptr, 4));
  CHECK(drain(fold) == "+a1 -a1 ");
}

TEST_CASE(
    "event fold: a consumer of any speed ends where the table is, and is never told to drop what it has "
    "not") {
  std::mt19937_64 random(rig::test_seed("fold"));
  for (int round = 0; round < 300; ++round) {
    const std::size_t limit = 1 + random() % 12;
    const unsigned ids = 1 + random() % 10;
    const bool filtered = random() % 2 != 0;
    const ServiceFilter filter = filtered ? ServiceFilter().version("0") : ServiceFilter();
    EventFold fold(filter, limit);
    std::map<std::string, Instance> table, consumer;
    std::int64_t revision = 0;
    const auto take = [&] {
      const auto event = fold.pop();
      REQUIRE(event);
      const std::string& id = event->instance->id;
      if (event->type == EventType::Put) {
        REQUIRE(filter.matches(*event->instance));
        consumer[id] = event->instance;
      } else {
        REQUIRE(consumer.erase(id) == 1);
      }
    };
    for (int step = 0; step < 200; ++step) {
      if (random() % 3 != 0) {
        const std::string id = "i" + std::to_string(random() % ids);
        Instance& known = table[id];
        Instance now = random() % 3 == 0 ? nullptr : instance(id, std::to_string(random() % 3));
        if (known || now) fold.push(change(known, now, ++revision));
        known = now;
        REQUIRE(fold.size() <= std::max<std::size_t>(limit, ids));
      } else if (!fold.empty()) {
        for (auto n = random() % 4; n > 0 && !fold.empty(); --n) take();
      }
    }
    while (!fold.empty()) take();
    std::erase_if(table, [&](const auto& entry) { return !entry.second || !filter.matches(*entry.second); });
    REQUIRE(consumer == table);
  }
}
