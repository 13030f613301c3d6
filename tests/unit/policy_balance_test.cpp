// The cores of the balancers: who takes part, the stride schedule, Maglev's table, and what a load costs.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "registry/policy/candidates.hpp"
#include "registry/policy/load.hpp"
#include "registry/policy/maglev.hpp"
#include "registry/policy/stride.hpp"
#include "rig/seed.hpp"

using namespace registry;
using namespace registry::detail;

namespace {

using List = std::vector<std::shared_ptr<const ServiceInstance>>;

std::shared_ptr<const ServiceInstance> made(const std::string& id,
                                            std::map<std::string, std::string> metadata = {}) {
  ServiceInstance instance("svc", id);
  instance.metadata = std::move(metadata);
  return std::make_shared<const ServiceInstance>(instance);
}

std::string ids(const List& list, const BalancerConfig& config = BalancerConfig()) {
  std::string text;
  for (const Candidate& each : candidates(list, config)) text += each.instance->id + " ";
  return text;
}

std::vector<int> turns(const StrideSchedule& schedule, StrideTurn& turn, int count, std::size_t items) {
  std::vector<int> found(items, 0);
  for (int i = 0; i < count; ++i) ++found[schedule.next(turn)];
  return found;
}

std::string sequence(const std::vector<std::uint32_t>& weights, int count) {
  const StrideSchedule schedule(weights);
  StrideTurn turn;
  std::string text;
  for (int i = 0; i < count; ++i) text += static_cast<char>('a' + schedule.next(turn));
  return text;
}

std::vector<MaglevTable::Item> items_of(const std::vector<std::string>& names, std::uint32_t weight = 1) {
  std::vector<MaglevTable::Item> items;
  for (const auto& name : names) items.push_back({name, weight});
  return items;
}

std::vector<std::string> names(int count) {
  std::vector<std::string> made_names;
  for (int i = 0; i < count; ++i) made_names.push_back("instance-" + std::to_string(1000 + i));
  return made_names;
}

}  // namespace

TEST_CASE("candidates: up, with a weight, and in the zone first, then the region, then anywhere") {
  const List list{made("a", {{"zone", "z1"}, {"region", "r1"}}),
                  made("b", {{"zone", "z2"}, {"region", "r1"}}),
                  made("c", {{"status", "disabled"}, {"zone", "z1"}}),
                  made("d", {{"status", "draining"}}),
                  made("e", {{"weight", "0"}}),
                  made("f", {{"zone", "z9"}, {"region", "r9"}, {"weight", "7"}})};
  CHECK(ids(list) == "a b f ");
  CHECK(candidates(list, BalancerConfig()).back().weight == 7);
  BalancerConfig config;
  config.zone = "z1";
  CHECK(ids(list, config) == "a ");
  config.region = "r1";
  CHECK(ids(list, config) == "a ");
  config.min_nearby = 2;  // one in the zone is too few: the region as well
  CHECK(ids(list, config) == "a b ");
  config.min_nearby = 3;
  CHECK(ids(list, config) == "a b f ");
  config.min_nearby = 100;
  CHECK(ids(list, config) == "a b f ");
  config.min_nearby = 0;  // as 1: nobody wants an empty choice
  config.zone = "nowhere";
  CHECK(ids(list, config) == "a b ");
  config.region = "nowhere";
  CHECK(ids(list, config) == "a b f ");
  CHECK(ids({}, config) == "");
}

TEST_CASE("stride: equal weights take strict turns") {
  CHECK(sequence({1}, 3) == "aaa");
  const std::string three = sequence({5, 5, 5}, 9);
  CHECK(three.substr(0, 3) == three.substr(3, 3));
  CHECK(three.substr(0, 3) == three.substr(6, 3));
  CHECK(std::count(three.begin(), three.end(), 'a') == 3);
  CHECK(std::count(three.begin(), three.end(), 'b') == 3);
}

TEST_CASE("stride: shares are exact to a turn for each slot, whatever the weights are") {
  std::mt19937_64 random(rig::test_seed("stride"));
  for (int round = 0; round < 200; ++round) {
    const std::size_t count = 1 + random() % 60;
    const std::uint32_t most = round % 3 == 0 ? 3 : round % 3 == 1 ? 100 : ServiceInstance::max_weight;
    std::vector<std::uint32_t> weights;
    for (std::size_t i = 0; i < count; ++i) weights.push_back(1 + random() % most);
    CAPTURE(count);
    CAPTURE(most);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    const StrideSchedule schedule(weights);
    StrideTurn turn;
    turn.slot = random();  // a turn from anywhere is valid
    turn.pass = random();
    const int total = 20'000;
    const auto found = turns(schedule, turn, total, count);
    for (std::size_t i = 0; i < count; ++i) {
      const double fair = total * weights[i] / sum;
      const double slots = std::ceil(weights[i] * static_cast<double>(count) / sum);
      CAPTURE(weights[i]);
      CHECK(std::abs(found[i] - fair) <= 2.0 * slots + 2.0 + fair * 0.002);
    }
  }
}

TEST_CASE("stride: two steps a turn on average, also with one heavy item among many light ones") {
  std::vector<std::uint32_t> weights(1'000, 1);
  weights[500] = ServiceInstance::max_weight;
  const StrideSchedule schedule(weights);
  StrideTurn turn;
  std::uint64_t passes = 0;
  std::uint32_t last = turn.pass;
  int heavy = 0;
  for (int i = 0; i < 100'000; ++i) {
    heavy += schedule.next(turn) == 500 ? 1 : 0;
    passes += turn.pass - std::exchange(last, turn.pass);
  }
  CHECK(heavy > 98'000);
  CHECK(heavy < 99'000);  // 65535 in 66534
  CHECK(passes * 2'000 <= 2 * 100'000 + 2'000);
}

TEST_CASE(
    "stride: interleaved: who weighs less than a quarter comes twice in a row less often than by chance, and "
    "never four times") {
  std::mt19937_64 random(rig::test_seed("interleaving"));
  for (int round = 0; round < 200; ++round) {
    const std::size_t count = 4 + random() % 30;
    std::vector<std::uint32_t> weights;
    for (std::size_t i = 0; i < count; ++i) weights.push_back(10 + random() % 20);
    const StrideSchedule schedule(weights);
    StrideTurn turn;
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::size_t before = count, twice = 0, run = 0;
    for (int i = 0; i < 5'000; ++i) {
      const std::size_t at = schedule.next(turn);
      run = at == before ? run + 1 : 1;
      before = at;
      if (weights[at] * 4 >= sum) continue;
      twice += run == 2 ? 1 : 0;
      REQUIRE(run <= 3);
    }
    CHECK(twice <= 5'000 / count);  // what a random choice would have
  }
  // The textbook's example, interleaved as there: never more than four of seven in a row.
  const std::string found = sequence({5, 1, 1}, 70);
  CHECK(std::count(found.begin(), found.end(), 'a') == 50);
  CHECK(found.find("aaaaaa") == std::string::npos);
}

TEST_CASE("maglev: the shares follow the weights to a few entries, and the table is the same every time") {
  std::vector<MaglevTable::Item> items{{"a", 1}, {"b", 2}, {"c", 5}, {"d", 65'535}};
  const MaglevTable table(items, 65'537);
  std::map<std::size_t, int> found;
  for (std::uint64_t hash = 0; hash < table.size(); ++hash) ++found[table.find(hash)];
  const double sum = 65'543;
  for (std::size_t i = 0; i < items.size(); ++i) {
    CHECK(std::abs(found[i] - 65'537 * items[i].weight / sum) <= static_cast<double>(items.size()));
  }
  const MaglevTable again(items, 65'537);
  bool same = true;
  for (std::uint64_t hash = 0; hash < table.size(); ++hash)
    same = same && again.find(hash) == table.find(hash);
  CHECK(same);
  CHECK(MaglevTable().empty());
  CHECK(MaglevTable({}, 7).empty());
}

TEST_CASE("maglev: when one of a hundred goes or comes, its share moves and less than 3 % of the rest") {
  const std::size_t size = 65'537;
  const auto all = names(100);
  const auto whole = items_of(all);
  const MaglevTable table(whole, size);
  for (const std::size_t gone : {std::size_t{0}, std::size_t{50}, std::size_t{99}}) {
    auto fewer_names = all;
    fewer_names.erase(fewer_names.begin() + static_cast<std::ptrdiff_t>(gone));
    const auto fewer = items_of(fewer_names);
    const MaglevTable without(fewer, size);
    std::size_t own = 0, others = 0;
    for (std::uint64_t hash = 0; hash < size; ++hash) {
      const auto& before = all[table.find(hash)];
      if (before == all[gone]) {
        ++own;
      } else if (fewer_names[without.find(hash)] != before) {
        ++others;
      }
    }
    CHECK(own >= size / 100);
    CHECK(own <= size / 100 + 1);
    CHECK(others < size * 3 / 100);
  }
}

TEST_CASE("maglev: sizes that are no primes") {
  for (const std::size_t prime : {2, 3, 65'537, 655'373}) CHECK(is_prime(prime));
  for (const std::size_t other : {0, 1, 4, 65'536, 65'539 * 3}) CHECK_FALSE(is_prime(other));
}

TEST_CASE("load: calls in flight, a peak that counts at once and fades") {
  const float memory = 10'000;
  Load load;
  std::uint32_t now = 4'294'967'000u;  // the clock wraps on the way
  CHECK(load.cost(1, now, memory) == 0.0f);
  load.begin();
  CHECK(load.cost(1, now, memory) > 1e5f);  // tried, but not yet heard of
  load.end(0.1f, now, memory);
  CHECK(load.cost(1, now, memory) == doctest::Approx(0.1));
  CHECK(load.cost(4, now, memory) == doctest::Approx(0.025));
  load.begin();
  load.begin();
  CHECK(load.in_flight() == 2);
  CHECK(load.cost(1, now, memory) == doctest::Approx(0.3));
  load.end(0.5f, now += 10, memory);  // slower: at once
  CHECK(load.cost(1, now, memory) == doctest::Approx(1.0));
  load.end(0.1f, now += 1'000, memory);  // faster: by as much as time has passed
  CHECK(load.cost(1, now, memory) == doctest::Approx(0.1 + 0.4 * std::exp(-0.1)).epsilon(0.01));
  const float before = load.cost(1, now, memory);
  CHECK(load.cost(1, now + 10'000, memory) == doctest::Approx(before * std::exp(-1.0)).epsilon(0.1));
  CHECK(load.cost(1, now + 100'000, memory) < before / 50);
  CHECK(load.cost(1, now - 5, memory) == before);  // another thread's clock was read earlier
}
