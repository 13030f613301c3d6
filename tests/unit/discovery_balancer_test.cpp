// Balancers over a view: how calls spread, what a change does, and many threads at once.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "registry/discovery/balancers.hpp"
#include "registry/discovery/instance_table.hpp"
#include "registry/discovery/least_loaded.hpp"
#include "registry/discovery/view_state.hpp"
#include "registry/model/encode.hpp"

using namespace registry;
using namespace registry::detail;

namespace {

using Metadata = std::map<std::string, std::string>;
using Shares = std::map<std::string, double>;

/// A view that is written by hand: what the strand that follows a service does.
struct World {
  World() : state(std::make_shared<ViewState>(ServiceFilter())), view(state) {
    state->attach(table);
    table->begin_list();
    table->list_page(Page(), true);
    state->changed(table->end_list(revision, true, true), true);
  }

  void put(const std::string& id, const Metadata& metadata = {}) {
    ServiceInstance instance("svc", id);
    instance.metadata = metadata;
    Batch batch;
    batch.through = ++revision;
    Change& change = batch.changes.emplace_back();
    change.kv.key = "/ns/svc/" + id;
    change.kv.mod_revision = revision;
    change.kv.value = encode(instance);
    state->changed(table->apply(batch), false);
  }
  void weigh(const std::string& id, int weight) { put(id, {{"weight", std::to_string(weight)}}); }
  void erase(const std::string& id) {
    Batch batch;
    batch.through = ++revision;
    Change& change = batch.changes.emplace_back();
    change.deleted = true;
    change.kv.key = "/ns/svc/" + id;
    change.kv.mod_revision = revision;
    state->changed(table->apply(batch), false);
  }

  std::int64_t revision = 1;
  std::shared_ptr<InstanceTable> table = std::make_shared<InstanceTable>("svc", KeyLayout("/ns"), Observer());
  std::shared_ptr<ViewState> state;
  ServiceView view;
};

template <class Pick>
Shares shares(int count, Pick pick) {
  Shares found;
  for (int i = 0; i < count; ++i) {
    const auto picked = pick();
    found[picked ? picked->id : "none"] += 1.0 / count;
  }
  return found;
}

/// Five standard deviations of a share of `count` draws.
double bound(double share, int count) { return 5 * std::sqrt(share * (1 - share) / count); }

}  // namespace

TEST_CASE("balancers: nobody to pick: null, and an empty call") {
  World world;
  RandomBalancer random;
  RoundRobinBalancer turns;
  WeightedRoundRobinBalancer weighted;
  LeastLoadedBalancer loaded;
  ConsistentHashBalancer hash;
  const auto all_null = [&](const ServiceView& view) {
    return !random.pick(view) && !turns.pick(view) && !weighted.pick(view) && !loaded.pick(view) &&
           !loaded.begin(view) && !hash.pick(view, "key") && !hash.pick(view, std::uint64_t{7});
  };
  CHECK(all_null(ServiceView()));
  CHECK(all_null(world.view));
  world.put("a", {{"status", "disabled"}});
  world.put("b", {{"status", "draining"}});
  world.weigh("c", 0);
  CHECK(all_null(world.view));
  world.put("a");
  CHECK_FALSE(all_null(world.view));
  CHECK(weighted.pick(world.view)->id == "a");
  world.erase("a");
  CHECK(all_null(world.view));
}

TEST_CASE(
    "balancers: what is picked is the view's own instance, not a copy, and outlives list, view and "
    "balancer") {
  std::shared_ptr<const ServiceInstance> kept;
  LeastLoadedBalancer::Call call;
  {
    World world;
    world.put("a", {{"zone", "z"}});
    RoundRobinBalancer turns;
    LeastLoadedBalancer loaded;
    kept = turns.pick(world.view);
    CHECK(kept.get() == world.view.snapshot()->instances[0].get());
    call = loaded.begin(world.view);
    CHECK(call.instance().get() == kept.get());
    world.erase("a");
    CHECK(turns.pick(world.view) == nullptr);
  }
  CHECK(kept->zone() == "z");
  CHECK(call->id == "a");
}

TEST_CASE("random and round robin: even shares, weights make no difference") {
  World world;
  for (const char* id : {"a", "b", "c", "d"}) world.weigh(id, id[0] == 'a' ? 50 : 1);
  RandomBalancer random;
  RoundRobinBalancer turns;
  const int count = 40'000;
  for (const auto& [id, share] : shares(count, [&] { return random.pick(world.view); })) {
    CAPTURE(id);
    CHECK(std::abs(share - 0.25) <= bound(0.25, count));
  }
  std::string order;
  for (int i = 0; i < 12; ++i) order += turns.pick(world.view)->id;
  CHECK(order.substr(0, 4) == order.substr(4, 4));
  CHECK(std::set<char>(order.begin(), order.begin() + 4).size() == 4);
}

TEST_CASE("weighted round robin: the shares are the weights, at once after a change") {
  World world;
  world.weigh("a", 1);
  world.weigh("b", 2);
  world.weigh("c", 7);
  WeightedRoundRobinBalancer weighted;
  const auto pick = [&] { return weighted.pick(world.view); };
  auto found = shares(1'000, pick);
  CHECK(found["a"] == doctest::Approx(0.1).epsilon(0.03));
  CHECK(found["b"] == doctest::Approx(0.2).epsilon(0.03));
  CHECK(found["c"] == doctest::Approx(0.7).epsilon(0.03));
  world.weigh("c", 1);
  found = shares(1'000, pick);
  CHECK(found["a"] == doctest::Approx(0.25).epsilon(0.03));
  CHECK(found["b"] == doctest::Approx(0.5).epsilon(0.03));
  world.put("b", {{"status", "draining"}});
  found = shares(1'000, pick);
  CHECK(found.size() == 2);
  CHECK(found["a"] == doctest::Approx(0.5).epsilon(0.03));
}

TEST_CASE("balancers: zone preference with spill-over, in all of them") {
  BalancerConfig config;
  config.zone = "here";
  config.min_nearby = 2;
  LeastLoadedConfig loaded_config;
  loaded_config.zone = "here";
  loaded_config.min_nearby = 2;
  World world;
  world.put("a", {{"zone", "here"}});
  world.put("b", {{"zone", "here"}});
  world.put("c", {{"zone", "there"}});
  RandomBalancer random(config);
  RoundRobinBalancer turns(config);
  WeightedRoundRobinBalancer weighted(config);
  LeastLoadedBalancer loaded(loaded_config);
  ConsistentHashBalancer hash(config);
  const auto who = [&] {
    std::set<std::string> found;
    for (int i = 0; i < 200; ++i) {
      for (const auto& picked : {random.pick(world.view), turns.pick(world.view), weighted.pick(world.view),
                                 loaded.pick(world.view), hash.pick(world.view, std::to_string(i))}) {
        found.insert(picked->id);
      }
    }
    return found;
  };
  CHECK(who() == std::set<std::string>{"a", "b"});
  world.put("b", {{"zone", "here"}, {"status", "disabled"}});
  CHECK(who() == std::set<std::string>{"a", "c"});
  world.put("b", {{"zone", "here"}});
  CHECK(who() == std::set<std::string>{"a", "b"});
}

TEST_CASE("consistent hash: equal keys stay, a change moves the changed share and little else") {
  World world;
  for (int i = 0; i < 50; ++i) world.put("i" + std::to_string(100 + i));
  ConsistentHashBalancer hash, other;
  const int count = 20'000;
  const auto owners = [&](ConsistentHashBalancer& balancer) {
    std::vector<std::string> found;
    for (int i = 0; i < count; ++i)
      found.push_back(balancer.pick(world.view, "user-" + std::to_string(i))->id);
    return found;
  };
  const auto before = owners(hash);
  CHECK(owners(other) == before);
  world.put("i120", {{"note", "new metadata moves nothing"}});
  CHECK(owners(hash) == before);
  world.erase("i120");
  const auto after = owners(hash);
  int own = 0, others = 0;
  for (int i = 0; i < count; ++i) {
    own += before[i] == "i120" ? 1 : 0;
    others += before[i] != "i120" && before[i] != after[i] ? 1 : 0;
    CHECK(after[i] != "i120");
  }
  CHECK(std::abs(own - count / 50) <= count * bound(1 / 50.0, count));
  CHECK(others < count * 3 / 100);
  world.put("i120");
  CHECK(owners(hash) == before);
}

TEST_CASE("consistent hash: shares by weight; bad table sizes are refused with their value") {
  World world;
  world.weigh("a", 1);
  world.weigh("b", 3);
  ConsistentHashBalancer hash;
  std::uint64_t key = 0;
  const int count = 40'000;
  const auto found = shares(count, [&] { return hash.pick(world.view, key++); });
  CHECK(std::abs(found.at("a") - 0.25) <= bound(0.25, count));
  for (const std::size_t size : {0, 1, 65'536, 16'777'259}) {
    try {
      const ConsistentHashBalancer bad(BalancerConfig(), size);
      FAIL("no error for " << size);
    } catch (const std::system_error& error) {
      CHECK(error.code() == errc::invalid_argument);
      CHECK(std::string(error.what()).find("table_size = " + std::to_string(size)) != std::string::npos);
    }
  }
}

TEST_CASE("least loaded: calls in flight keep calls away, a slow or failing instance gets few") {
  World world;
  for (const char* id : {"a", "b", "c"}) world.put(id);
  LeastLoadedBalancer loaded;
  // All have been heard of, with the same latency: that of a failed call.
  for (int i = 0; i < 300; ++i) loaded.begin(world.view).failed();
  std::vector<LeastLoadedBalancer::Call> held;
  std::map<std::string, int> found;
  for (int i = 0; i < 90; ++i) {
    held.push_back(loaded.begin(world.view));
    ++found[held.back()->id];
  }
  for (const char* id : {"a", "b", "c"}) CHECK(std::abs(found[id] - 30) <= 6);
  held.clear();

  LeastLoadedConfig config;
  config.failure_cost = std::chrono::seconds(5);
  LeastLoadedBalancer careful(config);
  int failing = 0;
  for (int i = 0; i < 1'000; ++i) {
    auto call = careful.begin(world.view);
    if (call->id == "b") {
      ++failing;
      call.failed();
    }
  }
  CHECK(failing < 20);  // once to find out, and hardly ever again within its memory
}

TEST_CASE("least loaded: what is known of an instance outlives other changes of the list") {
  World world;
  for (const char* id : {"b", "c"}) world.put(id);
  LeastLoadedConfig config;
  config.failure_cost = std::chrono::seconds(60);
  LeastLoadedBalancer loaded(config);
  for (int i = 0; i < 100; ++i) {
    auto call = loaded.begin(world.view);
    if (call->id == "b") call.failed();
  }
  world.put("a");
  world.put("b", {{"note", "changed"}});
  world.erase("c");
  std::map<std::string, int> found;
  for (int i = 0; i < 200; ++i) ++found[loaded.begin(world.view)->id];
  CHECK(found["a"] == 200);
}

TEST_CASE("least loaded: an instance that does not answer its first call gets no second one") {
  World world;
  world.put("dead");
  world.put("good");
  LeastLoadedBalancer loaded;
  std::vector<LeastLoadedBalancer::Call> hanging;
  int dead = 0;
  for (int i = 0; i < 500; ++i) {
    auto call = loaded.begin(world.view);
    if (call->id != "dead") continue;
    ++dead;
    hanging.push_back(std::move(call));
  }
  CHECK(dead == 1);
}

TEST_CASE("balancers: one for several views keeps them apart") {
  World one, two;
  one.put("one");
  two.put("two");
  RoundRobinBalancer turns;
  WeightedRoundRobinBalancer weighted;
  for (int i = 0; i < 100; ++i) {
    CHECK(turns.pick(one.view)->id == "one");
    CHECK(turns.pick(two.view)->id == "two");
    CHECK(weighted.pick(two.view)->id == "two");
    CHECK(weighted.pick(one.view)->id == "one");
    if (i % 10 == 0) one.put("one", {{"n", std::to_string(i)}});
  }
}

TEST_CASE("balancers: more views and balancers than a thread remembers") {
  std::vector<std::unique_ptr<World>> worlds;
  std::vector<std::unique_ptr<RoundRobinBalancer>> balancers;
  for (int i = 0; i < 80; ++i) {
    worlds.push_back(std::make_unique<World>());
    worlds.back()->put("w" + std::to_string(i));
    balancers.push_back(std::make_unique<RoundRobinBalancer>());
  }
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 80; ++i) {
      CHECK(balancers[0]->pick(worlds[i]->view)->id == "w" + std::to_string(i));
      CHECK(balancers[i]->pick(worlds[i]->view)->id == "w" + std::to_string(i));
    }
  }
}

TEST_CASE(
    "balancers: four threads pick while the list changes: never one that has been gone for a whole pick") {
  World world;
  const int instances = 20, changes = 300;
  std::vector<std::atomic<bool>> present(instances);
  for (int i = 0; i < instances; ++i) {
    world.put(std::to_string(100 + i));
    present[i] = true;
  }
  RandomBalancer random;
  RoundRobinBalancer turns;
  WeightedRoundRobinBalancer weighted;
  LeastLoadedBalancer loaded;
  ConsistentHashBalancer hash(BalancerConfig(), 1'009);
  std::atomic<bool> stop{false};
  std::atomic<int> empty{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; !stop; ++i) {
        std::shared_ptr<const ServiceInstance> picked;
        switch ((i + t) % 5) {
          case 0: picked = random.pick(world.view); break;
          case 1: picked = turns.pick(world.view); break;
          case 2: picked = weighted.pick(world.view); break;
          case 3: picked = hash.pick(world.view, i); break;
          default: {
            auto call = loaded.begin(world.view);
            if (i % 3 == 0) call.failed();
            picked = call.instance();
          }
        }
        if (!picked || picked->id.size() != 3) ++empty;
      }
    });
  }
  std::mt19937 draw(1);
  for (int i = 0; i < changes; ++i) {
    const int which = 1 + static_cast<int>(draw() % (instances - 1));  // the first one always stays
    const std::string id = std::to_string(100 + which);
    if (present[which].exchange(!present[which])) {
      world.erase(id);
    } else {
      world.weigh(id, 1 + static_cast<int>(draw() % 9));
    }
    std::this_thread::yield();
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  CHECK(empty == 0);
  // Settled: every balancer sees the last list.
  std::set<std::string> expected, found;
  for (const auto& instance : world.view.snapshot()->instances) expected.insert(instance->id);
  for (int i = 0; i < 100; ++i) found.insert(turns.pick(world.view)->id);
  CHECK(found == expected);
}
