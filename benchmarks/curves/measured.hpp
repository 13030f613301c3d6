// The process of curves.cpp that is measured: it does one step after the other, each at a word on stdin, and says what it has
// cost on stdout.
#pragma once

#include <malloc.h>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <latch>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common.hpp"
#include "registry/etcd/connector.hpp"
#include "registry/facade/registry.hpp"
#include "rig/run.hpp"

namespace curves {

/// What malloc has handed out in this process, in MB.
inline double heap() {
  const auto now = ::mallinfo2();
  return static_cast<double>(now.uordblks + now.hblkhd) / 1e6;
}

inline constexpr int at_once = 10'000;  // registrations: beyond that some would wait for longer than they may

/// Counts the changes that its views have taken over.
class Applied final : public registry::Metrics {
 public:
  void add(const registry::Metric& metric, std::string_view, double amount) noexcept override {
    if (metric.name != registry::metric::watch_events.name) return;
    changes_ += static_cast<std::int64_t>(amount);
    changes_.notify_all();
  }
  /// Until so many more changes have come than at the last return.
  void wait(std::int64_t more) {
    waited_ += more;
    for (auto now = changes_.load(); now < waited_; now = changes_.load()) changes_.wait(now);
  }

 private:
  std::atomic<std::int64_t> changes_ = 0;
  std::int64_t waited_ = 0;
};

/// One Registry and what it needs.
struct Client {
  Client(asio::thread_pool& pool, const std::string& endpoint, const std::shared_ptr<Applied>& applied)
      : store(pool.get_executor(), at(endpoint)),
        reg(store, registry::RegistryConfig(), registry::Observer(nullptr, applied)) {
    rig::run(pool, store.connect());
  }
  static registry::etcd::ConnectorConfig at(const std::string& endpoint) {
    registry::etcd::ConnectorConfig config;
    config.endpoints = {endpoint};
    config.request_timeout = 60s;  // a thousand clients at once are a burst on two cores
    return config;
  }
  registry::etcd::Connector store;
  registry::Registry reg;
};

/// A step: waits for the word, does it, and says what it has cost.
template <class Work>
void step(Work work) {
  std::string word;
  std::getline(std::cin, word);
  const double handed_out = heap(), rss = rss_of("self"),
               cpu = bench::process_cpu();  // heap() looks at every free piece: first
  const auto began = Clock::now();
  work();
  const double wall = bench::since(began), used = (bench::process_cpu() - cpu) / 1e6;
  std::printf("%.6f %.6f %.6f %.6f\n", used, wall, rss_of("self") - rss, heap() - handed_out);
  std::fflush(stdout);
}

/// work(0) to work(n - 1), all at the same time. A failure of one ends the process.
template <class Work>
void together(asio::thread_pool& pool, int n, Work work) {
  std::latch missing(n);
  const auto ended = [&missing](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
    missing.count_down();
  };
  for (int i = 0; i < n; ++i) asio::co_spawn(pool, work(i), ended);
  missing.wait();
}

inline asio::awaitable<void> subscribe(registry::Registry& reg, std::string name, int instances,
                                       registry::ServiceView& view) {
  view = co_await reg.subscribe(std::move(name));
  co_await view.wait_ready(static_cast<std::size_t>(instances));
}

inline asio::awaitable<void> register_one(registry::Registry& reg, registry::ServiceInstance made) {
  co_await reg.register_instance(std::move(made), 30s);
}

/// Takes so many events, and then those up to the last version.
inline asio::awaitable<void> take(registry::Generator<registry::ServiceEvent>& events, int count) {
  for (int i = 0; i < count; ++i) co_await events.next();
}
inline asio::awaitable<void> take_to_last(registry::Generator<registry::ServiceEvent>& events) {
  while (auto event = co_await events.next()) {
    if (event->service.version == last_version) co_return;
  }
}

inline asio::awaitable<void> read_on(registry::ServiceView view) {
  for (;;) co_await view.next();
}

inline int measured(const std::string& curve, int n, const std::string& endpoint) {
  const auto applied = std::make_shared<Applied>();
  asio::thread_pool pool(1);
  Client client(pool, endpoint, applied);
  if (curve == "instances") {
    registry::ServiceView view;
    step([&] { rig::run(pool, subscribe(client.reg, service_name(0), n, view), 60s); });
    step([&] { applied->wait(1); });
    step([&] { applied->wait(500); });
    asio::co_spawn(pool, read_on(view), [](std::exception_ptr) {});
    step([&] { applied->wait(200); });
  } else if (curve == "watchers") {
    std::vector<registry::Generator<registry::ServiceEvent>> watches;
    step([&] {
      for (int i = 0; i < n; ++i) watches.push_back(client.reg.watch(service_name(0)));
      together(pool, n, [&](int i) { return take(watches[static_cast<std::size_t>(i)], 100); });
    });
    step([&] { together(pool, n, [&](int i) { return take(watches[static_cast<std::size_t>(i)], 1); }); });
    step([&] {
      together(pool, n, [&](int i) { return take_to_last(watches[static_cast<std::size_t>(i)]); });
    });
  } else if (curve == "services") {
    std::vector<registry::ServiceView> views(static_cast<std::size_t>(n));
    step([&] {
      together(pool, n, [&](int i) {
        return subscribe(client.reg, service_name(i), 10, views[static_cast<std::size_t>(i)]);
      });
    });
    step([&] { applied->wait(n); });
    step([&] { applied->wait(1000); });
  } else if (curve == "registered") {
    step([&] {
      for (int done = 0; done < n; done += at_once) {
        together(pool, std::min(n, at_once),
                 [&](int i) { return register_one(client.reg, instance(0, done + i)); });
      }
    });
    step([&] { std::this_thread::sleep_for(10s); });
  } else {
    std::vector<std::unique_ptr<Client>> clients;
    std::vector<registry::ServiceView> views(static_cast<std::size_t>(n));
    step([&] {
      for (int i = 0; i < n; ++i) clients.push_back(std::make_unique<Client>(pool, endpoint, applied));
      together(pool, n, [&](int i) {
        const auto at = static_cast<std::size_t>(i);
        return subscribe(clients[at]->reg, service_name(0), 100, views[at]);
      });
    });
    step([&] { applied->wait(n); });
    step([&] { applied->wait(100 * std::int64_t{n}); });
  }
  std::_Exit(0);  // the leases are of no interest any more
}

}  // namespace curves
