// Everything at once on several threads: registrations, watches and views of two Registries on one MemoryStore that
// breaks, compacts and expires leases meanwhile. Made for the thread sanitizer; nothing here crosses into gRPC.
#include <doctest/doctest.h>

#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "registry/facade/registry.hpp"
#include "registry/model/keys.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/eventually.hpp"
#include "rig/run.hpp"
#include "rig/seed.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {

constexpr auto service = "user-service";

ServiceInstance made(const std::string& id, int version) {
  ServiceInstance instance(service, id);
  instance.version = "v" + std::to_string(version);
  instance.endpoints = {"grpc://127.0.0.1:9001"};
  return instance;
}

RegistryConfig quick() {
  RegistryConfig config;
  config.retry_interval = 5ms;
  config.max_retry_interval = 50ms;
  return config;
}

/// What the parts of the test tell each other.
struct Shared {
  std::atomic<bool> stop = false;
  std::mutex mutex;
  std::set<std::string> live;         // ids that must be there in the end
  std::vector<std::int64_t> leases;   // that were given
  std::vector<std::string> findings;  // what must not be

  void find(std::string what) {
    const std::lock_guard lock(mutex);
    findings.push_back(std::move(what));
  }
};

/// Registers, updates and deregisters its own ids until told to stop. What throws has a meaning that the end
/// of the test relies on: a failed registration is none, a failed deregistration is one all the same.
asio::awaitable<void> keep_busy(Registry& reg, Shared& shared, std::string name, std::uint32_t seed) {
  std::mt19937 random(seed);
  for (int step = 0; !shared.stop; ++step) {
    const std::string id = name + std::to_string(random() % 5);
    bool there = false;
    {
      const std::lock_guard lock(shared.mutex);
      there = shared.live.contains(id);
    }
    try {
      if (!there) {
        const Registration done = co_await reg.register_instance(made(id, step));
        const std::lock_guard lock(shared.mutex);
        shared.live.insert(id);
        shared.leases.push_back(done.lease);
      } else if (random() % 3 == 0) {
        {
          const std::lock_guard lock(shared.mutex);
          shared.live.erase(id);
        }
        co_await reg.deregister(id);
      } else if (random() % 2 == 0) {
        co_await reg.update_instance(made(id, step));
      } else {
        co_await reg.get_service(service);
      }
    } catch (const std::system_error& error) {
      if (!is_retryable(error.code()) && error.code() != errc::lease_lost)
        shared.find(id + ": " + std::string(error.what()));
    }
  }
}

/// Applies what a watch yields, and looks at its order.
struct Watcher {
  std::mutex mutex;
  std::map<std::string, std::int64_t> known;  // id to revision

  static asio::awaitable<void> run(std::shared_ptr<Watcher> self, Generator<ServiceEvent> events,
                                   Shared& shared) {
    while (auto event = co_await events.next()) {
      const std::lock_guard lock(self->mutex);
      const auto found = self->known.find(event->service.id);
      if (found != self->known.end() && event->revision <= found->second)
        shared.find("a step back of " + event->service.id);
      if (event->type == EventType::Put) {
        self->known[event->service.id] = event->revision;
      } else if (self->known.erase(event->service.id) == 0) {
        shared.find("a Delete of what was never given: " + event->service.id);
      }
    }
  }
  std::set<std::string> ids() {
    const std::lock_guard lock(mutex);
    std::set<std::string> all;
    for (const auto& [id, revision] : known) all.insert(id);
    return all;
  }
};

/// What others, time and the network do to the store, as long as the test runs.
void disturb(MemoryStore& store, Shared& shared, std::uint32_t seed) {
  std::mt19937 random(seed);
  const KeyLayout layout("/genesis/services", "");
  while (!shared.stop) {
    switch (random() % 5) {
      case 0: store.disconnect(); break;
      case 1:
        store.set_unavailable(true);
        std::this_thread::sleep_for(std::chrono::milliseconds(random() % 10));
        store.set_unavailable(false);
        break;
      case 2: store.compact(store.put("/elsewhere", "x")); break;
      case 3: {
        std::string id;
        {
          const std::lock_guard lock(shared.mutex);
          if (shared.live.empty()) break;
          id = *std::next(shared.live.begin(), static_cast<std::ptrdiff_t>(random() % shared.live.size()));
        }
        store.erase(layout.key_of(service, id));
        break;
      }
      default: {
        std::int64_t lease = 0;
        {
          const std::lock_guard lock(shared.mutex);
          if (shared.leases.empty()) break;
          lease = shared.leases[random() % shared.leases.size()];
        }
        store.expire(lease);
      }
    }
    std::this_thread::sleep_for(3ms);
  }
}

std::set<std::string> ids_of(const ServiceSnapshot& snapshot) {
  std::set<std::string> ids;
  for (const auto& each : snapshot.instances) ids.insert(each->id);
  return ids;
}

}  // namespace

TEST_CASE(
    "threads: two Registries register, update, deregister, watch and read on a pool while the store breaks, "
    "compacts, loses keys and leases") {
  const auto seed = static_cast<std::uint32_t>(rig::test_seed("threads"));
  asio::thread_pool pool(4);
  MemoryStore store(pool.get_executor());
  Registry first(store, quick()), second(store, quick());
  Shared shared;

  std::vector<std::shared_ptr<Watcher>> watchers;
  std::vector<std::future<void>> watches, works;
  for (Registry* reg : {&first, &second, &first}) {
    watchers.push_back(std::make_shared<Watcher>());
    watches.push_back(
        asio::co_spawn(pool, Watcher::run(watchers.back(), reg->watch(service), shared), asio::use_future));
  }
  const ServiceView view = rig::run(pool, first.subscribe(service));
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!shared.stop) {
        const auto snapshot = view.snapshot();
        const auto& all = snapshot->instances;
        for (std::size_t at = 1; at < all.size(); ++at) {
          if (all[at - 1]->id >= all[at]->id) shared.find("a list out of order");
        }
        std::this_thread::sleep_for(100us);
      }
    });
  }
  for (int i = 0; i < 6; ++i) {
    const std::string name = std::string(1, static_cast<char>('a' + i)) + "-";
    works.push_back(asio::co_spawn(
        pool, keep_busy(i % 2 == 0 ? first : second, shared, name, seed + static_cast<std::uint32_t>(i)),
        asio::use_future));
  }
  std::thread chaos([&] { disturb(store, shared, seed); });
  std::this_thread::sleep_for(2s);
  shared.stop = true;
  chaos.join();
  for (auto& reader : readers) reader.join();
  for (auto& work : works) work.get();

  std::set<std::string> live;
  {
    const std::lock_guard lock(shared.mutex);
    live = shared.live;
  }
  CHECK(rig::eventually(
      [&] {
        std::set<std::string> stored;
        for (const auto& each : rig::run(pool, second.get_service(service))) stored.insert(each.id);
        return stored == live;
      },
      "what is registered is in the store, and nothing else"));
  CHECK(rig::eventually([&] { return ids_of(*view.snapshot()) == live && !view.snapshot()->stale; },
                        "the view"));
  for (const auto& watcher : watchers)
    CHECK(rig::eventually([&] { return watcher->ids() == live; }, "a watcher"));
  rig::run(pool, first.close());
  rig::run(pool, second.close());
  for (auto& watch : watches) CHECK(watch.wait_for(10s) == std::future_status::ready);
  CHECK(rig::run(pool, Registry(store).get_service(service)).empty());
  for (const auto& finding : shared.findings) FAIL_CHECK(finding);
}
