// Destroying things in every order, with everything in flight, leaves nothing behind: no crash, no leak, no
// thread, no watch.
#include <doctest/doctest.h>

#include <algorithm>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "rig/seed.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

std::size_t threads() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                                                std::filesystem::directory_iterator()));
}

/// Everything a program may hold, all of it at work.
struct Parts {
  std::unique_ptr<asio::io_context> io = std::make_unique<asio::io_context>();
  std::unique_ptr<Store> store;
  std::unique_ptr<Registry> reg;
  std::unique_ptr<Generator<ServiceEvent>> events;
  std::unique_ptr<Generator<RegistrationEvent>> states;
  std::unique_ptr<ServiceView> view = std::make_unique<ServiceView>();

  explicit Parts(const std::string& endpoint) {
    if (endpoint.empty()) {
      store = std::make_unique<MemoryStore>(io->get_executor());
    } else {
      store = std::make_unique<etcd::Connector>(io->get_executor(), connector_config(endpoint));
    }
    reg = std::make_unique<Registry>(*store, quick_config());
    events = std::make_unique<Generator<ServiceEvent>>(reg->watch("user-service"));
    states = std::make_unique<Generator<RegistrationEvent>>(reg->registration_events());
    for (int i = 0; i < 3; ++i) {
      asio::co_spawn(*io, reg->register_instance(instance("user-service", "user-" + std::to_string(i)), 2s),
                     asio::detached);
    }
    asio::co_spawn(*io, events->next(), asio::detached);
    asio::co_spawn(*io, states->next(), asio::detached);
    asio::co_spawn(*io, reg->get_service("user-service"), asio::detached);
    asio::co_spawn(*io, reg->list_services(), asio::detached);
    asio::co_spawn(*io, keep_view(reg->subscribe("user-service")), asio::detached);
  }

  static asio::awaitable<void> keep_view(asio::awaitable<ServiceView> subscribing) {
    ServiceView view = co_await std::move(subscribing);
    for (;;) co_await view.next();
  }

  void destroy(int part) {
    switch (part) {
      case 0: io.reset(); break;
      case 1: store.reset(); break;
      case 2: reg.reset(); break;
      case 3: events.reset(); break;
      case 4: states.reset(); break;
      default: view.reset(); break;
    }
  }
};

void every_order(const std::string& endpoint, int stride) {
  std::vector<int> order(5);
  std::iota(order.begin(), order.end(), 0);
  int round = 0;
  do {
    if (round++ % stride != 0) continue;
    Parts parts(endpoint);
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(200 * (round % 50));
    do {
      parts.io->poll_one();
    } while (std::chrono::steady_clock::now() < until);
    for (const int part : order) {
      parts.destroy(part);
      if (parts.io && round % 2 == 0) parts.io->poll();
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

void from_another_thread(const std::string& endpoint, int rounds) {
  std::mt19937_64 random(rig::test_seed("lifetime"));
  for (int round = 0; round < rounds; ++round) {
    Parts parts(endpoint);
    std::vector<std::thread> crew;
    for (int i = 0; i < 2; ++i) crew.emplace_back([io = parts.io.get()] { io->run(); });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 8000));
    std::vector<int> order{1, 2, 3, 4};
    std::shuffle(order.begin(), order.end(), random);
    for (const int part : order) parts.destroy(part);
    // With everything gone nothing keeps the context running: no coroutine is left.
    for (auto& thread : crew) thread.join();
  }
}

}  // namespace

TEST_CASE("lifetime: every order of destruction, on the embedded store") { every_order("", 1); }

TEST_CASE("lifetime: every order of destruction, on etcd") {
  Etcd etcd;
  every_order(etcd.endpoint(), 1);
}

TEST_CASE("lifetime: orders of destruction with etcd out of reach") {
  Etcd etcd;
  Gate gate(etcd.endpoint());
  gate.swallow();
  every_order(gate.endpoint(), 7);
}

TEST_CASE("lifetime: destroyed from another thread while two threads run, on the embedded store") {
  from_another_thread("", 300);
}

TEST_CASE("lifetime: destroyed from another thread while two threads run, on etcd") {
  Etcd etcd;
  from_another_thread(etcd.endpoint(), 100);
}

TEST_CASE(
    "lifetime: 1,000 rounds of create, use, cancel, destroy leave no coroutine, thread, watch or lease "
    "behind") {
  Etcd etcd;
  asio::io_context io;
  const auto watchers = [&] { return etcd.metric("etcd_debugging_mvcc_watcher_total"); };
  std::size_t threads_before = 0;
  const auto watchers_before = watchers();
  etcd::Connector store(io.get_executor(), connector_config(etcd.endpoint()));
  for (int round = 0; round < 1000; ++round) {
    auto use = [](etcd::Connector& on, int number) -> asio::awaitable<void> {
      Registry reg(on, quick_config());
      // A service of its own: what the rounds before left to expire is no part of it.
      const std::string service = "service-" + std::to_string(number);
      auto events = reg.watch(service);
      auto pending = reg.watch("other-service");
      const auto cancel = std::make_shared<asio::cancellation_signal>();
      const auto keep = [cancel](std::exception_ptr, std::optional<ServiceEvent>) {};
      const auto executor = co_await asio::this_coro::executor;
      asio::co_spawn(executor, pending.next(), asio::bind_cancellation_slot(cancel->slot(), keep));
      co_await reg.register_instance(instance(service, "user-1"), 2s);
      co_await events.next();
      cancel->emit(asio::cancellation_type::terminal);
      if (number % 2 == 0) co_await reg.close();
    };
    rig::run(io, use(store, round));
    if (round == 20) threads_before = threads();
  }
  // gRPC adds and retires a few of its own; one for each round would be a thousand.
  CHECK(threads() <= threads_before + 8);
  CHECK(eventually([&] { return rig::run(io, store.lease_leases()).leases_size() == 0; }));
  CHECK(eventually([&] {
    io.poll();
    return watchers() == watchers_before;
  }));
  rig::run(io, store.close());
  io.restart();
  io.run();  // returns: nothing is left to wait for
}
