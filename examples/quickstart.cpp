// Three instances of a service come, one changes, one goes; a watcher prints what it sees. Runs on the
// embedded store, or on etcd: quickstart --etcd 127.0.0.1:2379
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <registry/registry.hpp>
#include <string>

using namespace std::chrono_literals;

asio::awaitable<void> watch_users(registry::Generator<registry::ServiceEvent> events) {
  while (auto event = co_await events.next()) {
    const auto& user = event->service;
    const bool put = event->type == registry::EventType::Put;
    std::printf("  [%lld] %-6s %s/%s", static_cast<long long>(event->revision), put ? "PUT" : "DELETE",
                user.name.c_str(), user.id.c_str());
    if (put) std::printf(" at %s, version %s", user.endpoints.front().c_str(), user.version.c_str());
    std::printf("\n");
  }
  std::printf("  the watch has ended\n");
}

asio::awaitable<void> run(registry::Registry& reg) {
  asio::co_spawn(co_await asio::this_coro::executor, watch_users(reg.watch("user-service")), asio::detached);

  std::printf("three instances come\n");
  for (int i = 1; i <= 3; ++i) {
    registry::ServiceInstance user("user-service", "user-" + std::to_string(i));
    user.version = "v1";
    user.endpoints = {"grpc://127.0.0.1:900" + std::to_string(i)};
    const auto registration = co_await reg.register_instance(user, 30s);
    std::printf("registered %s at revision %lld, renewed under a lease of %llds\n", registration.id.c_str(),
                static_cast<long long>(registration.revision),
                static_cast<long long>(registration.ttl.count()));
  }

  std::printf("one changes\n");
  registry::ServiceInstance changed("user-service", "user-2");
  changed.version = "v2";
  changed.endpoints = {"grpc://127.0.0.1:9002"};
  co_await reg.update_instance(changed);

  std::printf("one goes\n");
  co_await reg.deregister("user-1");

  registry::ServiceView view = co_await reg.subscribe("user-service");
  std::printf("there are now %zu instances:", view.snapshot()->instances.size());
  for (const auto& instance : view.snapshot()->instances) {
    std::printf(" %s(%s)", instance->id.c_str(), instance->version.c_str());
  }
  std::printf("\nclosing takes the rest away\n");
  co_await reg.close();
}

int main(int argc, char** argv) try {
  asio::io_context io;
  std::unique_ptr<registry::Store> store;
  if (argc == 3 && std::string(argv[1]) == "--etcd") {
    registry::etcd::ConnectorConfig config;
    config.endpoints = {argv[2]};
    store = std::make_unique<registry::etcd::Connector>(io.get_executor(), config);
  } else if (argc == 1) {
    store = std::make_unique<registry::MemoryStore>(io.get_executor());
  } else {
    std::fprintf(stderr, "usage: %s [--etcd host:port]\n", argv[0]);
    return 2;
  }
  registry::Registry reg(*store);
  std::exception_ptr failure;
  asio::co_spawn(io, run(reg), [&](std::exception_ptr error) {
    failure = error;
    if (error) io.stop();
  });
  io.run();
  if (failure) std::rethrow_exception(failure);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "quickstart: %s\n", error.what());
  return 1;
}
