// A Registry on a real etcd behind a gate, running on a pool of threads, and what tests want to know of it.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "registry/etcd/connector.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/keys.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/etcd.hpp"
#include "rig/eventually.hpp"
#include "rig/gate.hpp"
#include "rig/run.hpp"

namespace rig {

inline registry::ServiceInstance instance(const std::string& service, const std::string& id,
                                          const std::string& version = "v1") {
  registry::ServiceInstance made(service, id);
  made.version = version;
  made.endpoints = {"grpc://127.0.0.1:9001"};
  return made;
}

inline std::string key_of(const std::string& service, const std::string& id) {
  return registry::KeyLayout("/genesis/services", "").key_of(service, id);
}

/// Whether a condition holds all the time; looked at every 50 ms.
template <class Condition>
bool holds_for(std::chrono::milliseconds time, Condition condition) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    if (!condition()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

/// Backoffs short enough for tests.
inline registry::RegistryConfig quick_config() {
  registry::RegistryConfig config;
  config.retry_interval = std::chrono::milliseconds(100);
  config.max_retry_interval = std::chrono::milliseconds(1000);
  return config;
}

inline registry::etcd::ConnectorConfig connector_config(std::string endpoint) {
  registry::etcd::ConnectorConfig config;
  config.endpoints = {std::move(endpoint)};
  config.ping_interval = std::chrono::seconds(6);
  config.ping_timeout = std::chrono::seconds(2);
  return config;
}

/// Takes everything a generator yields, on the pool, for as long as this lives or the generator goes on.
template <class T>
class Log {
 public:
  Log(asio::thread_pool& pool, registry::Generator<T> source) : state_(std::make_shared<State>()) {
    asio::co_spawn(pool, drain(std::move(source), state_), [state = state_](std::exception_ptr error) {
      const std::lock_guard lock(state->mutex);
      state->error = error;
      state->ended = true;
    });
  }

  std::vector<T> all() const {
    const std::lock_guard lock(state_->mutex);
    return state_->items;
  }
  std::size_t size() const { return all().size(); }
  bool ended() const {
    const std::lock_guard lock(state_->mutex);
    return state_->ended;
  }
  std::exception_ptr error() const {
    const std::lock_guard lock(state_->mutex);
    return state_->error;
  }

 private:
  struct State {
    std::mutex mutex;
    std::vector<T> items;
    std::exception_ptr error;
    bool ended = false;
  };

  static asio::awaitable<void> drain(registry::Generator<T> source, std::shared_ptr<State> state) {
    for (;;) {
      std::optional<T> item = co_await source.next();
      if (!item) co_return;
      const std::lock_guard lock(state->mutex);
      state->items.push_back(std::move(*item));
    }
  }

  std::shared_ptr<State> state_;
};

using EventLog = Log<registry::ServiceEvent>;
using RegistrationLog = Log<registry::RegistrationEvent>;

inline bool has_state(const RegistrationLog& log, registry::RegistrationState state, std::size_t times = 1) {
  std::size_t seen = 0;
  for (const auto& event : log.all()) seen += event.state == state ? 1 : 0;
  return seen >= times;
}

/// The instances that were lost for a while, with the reasons; empty: none.
inline std::string losses(const RegistrationLog& log) {
  std::string text;
  for (const auto& event : log.all()) {
    if (event.state == registry::RegistrationState::Lost)
      text += event.id + ": " + event.reason.message() + "; ";
  }
  return text;
}

/// The text that an awaitable fails with; empty if it does not.
template <class T>
asio::awaitable<std::string> text_of(asio::awaitable<T> work) {
  try {
    co_await std::move(work);
  } catch (const std::exception& error) {
    co_return error.what();
  }
  co_return std::string();
}

/// Prints the library's log to stderr when REGISTRY_TEST_LOG is set: for finding out why a test fails.
inline registry::Observer observer() {
  struct Printer : registry::Logger {
    void log(registry::LogLevel, std::string_view text) noexcept override {
      std::fprintf(stderr, "log: %.*s\n", static_cast<int>(text.size()), text.data());
    }
  };
  if (std::getenv("REGISTRY_TEST_LOG") == nullptr) return registry::Observer();
  return registry::Observer(std::make_shared<Printer>());
}

struct World {
  explicit World(registry::RegistryConfig config = quick_config())
      : gate(etcd.endpoint()),
        store(pool.get_executor(), connector_config(gate.endpoint())),
        reg(store, std::move(config), observer()) {}

  template <class T>
  T run(asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
    return rig::run(pool, std::move(work), limit);
  }

  Etcd etcd;
  Gate gate;
  asio::thread_pool pool{2};
  registry::etcd::Connector store;
  registry::Registry reg;
};

/// The same on a MemoryStore: no server, nothing between.
struct MemoryWorld {
  explicit MemoryWorld(registry::RegistryConfig config = quick_config(), std::size_t threads = 2)
      : pool(threads), store(pool.get_executor()), reg(store, std::move(config), observer()) {}

  template <class T>
  T run(asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
    return rig::run(pool, std::move(work), limit);
  }

  asio::thread_pool pool;
  registry::MemoryStore store;
  registry::Registry reg;
};

}  // namespace rig
