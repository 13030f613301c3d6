// Prints what happens to a service until SIGINT or SIGTERM, through every failure of etcd:
//   watch_service 127.0.0.1:2379 user-service
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <registry/registry.hpp>
#include <string>

namespace {

asio::awaitable<void> print_events(registry::Registry& reg, std::string service) {
  auto events = reg.watch(service);
  while (auto event = co_await events.next()) {
    const auto& instance = event->service;
    std::printf("[%lld] %s %s%s", static_cast<long long>(event->revision),
                event->type == registry::EventType::Put ? "PUT" : "DELETE", instance.id.c_str(),
                event->resynced ? " (resynced)" : "");
    for (const auto& endpoint : instance.endpoints) std::printf(" %s", endpoint.c_str());
    std::printf("\n");
    std::fflush(stdout);
  }
}

asio::awaitable<void> run(registry::Registry& reg, std::string service) {
  asio::signal_set signals(co_await asio::this_coro::executor, SIGINT, SIGTERM);
  asio::co_spawn(co_await asio::this_coro::executor, print_events(reg, service),
                 [](std::exception_ptr error) {
                   if (error) std::rethrow_exception(error);
                 });
  co_await signals.async_wait(asio::use_awaitable);
  co_await reg.close();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s etcd-host:port service\n", argv[0]);
    return 2;
  }
  asio::io_context io;
  registry::etcd::ConnectorConfig config;
  config.endpoints = {argv[1]};
  registry::etcd::Connector etcd(io.get_executor(), config);
  registry::Registry reg(etcd);
  asio::co_spawn(io, run(reg, argv[2]), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "watch_service: %s\n", error.what());
  return 1;
}
