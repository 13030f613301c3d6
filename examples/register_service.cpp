// Registers one instance and keeps it registered until SIGINT or SIGTERM, then takes it away:
//   register_service 127.0.0.1:2379 user-service user-1 grpc://10.0.0.5:9001 [ttl in seconds]
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <registry/registry.hpp>
#include <string>

namespace {

const char* name_of(registry::RegistrationState state) {
  switch (state) {
    case registry::RegistrationState::Registered: return "registered";
    case registry::RegistrationState::Lost: return "lost";
    case registry::RegistrationState::Restored: return "restored";
    case registry::RegistrationState::Displaced: return "displaced";
    case registry::RegistrationState::Closed: return "closed";
  }
  return "?";
}

asio::awaitable<void> report(registry::Generator<registry::RegistrationEvent> events) {
  while (auto event = co_await events.next()) {
    std::printf("%s %s%s%s\n", event->id.c_str(), name_of(event->state), event->reason ? ": " : "",
                event->reason ? event->reason.message().c_str() : "");
    std::fflush(stdout);
  }
}

asio::awaitable<void> serve(registry::Registry& reg, registry::ServiceInstance self,
                            std::chrono::seconds ttl) {
  asio::signal_set signals(co_await asio::this_coro::executor, SIGINT, SIGTERM);
  asio::co_spawn(co_await asio::this_coro::executor, report(reg.registration_events()), asio::detached);
  co_await reg.register_instance(self, ttl);
  co_await signals.async_wait(asio::use_awaitable);
  co_await reg.close();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 5 || argc > 6) {
    std::fprintf(stderr, "usage: %s etcd-host:port service id endpoint [ttl in seconds]\n", argv[0]);
    return 2;
  }
  asio::io_context io;
  registry::etcd::ConnectorConfig config;
  config.endpoints = {argv[1]};
  registry::etcd::Connector etcd(io.get_executor(), config);
  registry::Registry reg(etcd);

  registry::ServiceInstance self(argv[2], argv[3]);
  self.endpoints = {argv[4]};
  const std::chrono::seconds ttl(argc == 6 ? std::atoll(argv[5]) : 0);
  std::exception_ptr failure;
  asio::co_spawn(io, serve(reg, self, ttl), [&](std::exception_ptr error) {
    failure = error;
    if (error) io.stop();
  });
  io.run();
  if (failure) std::rethrow_exception(failure);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "register_service: %s\n", error.what());
  return 1;
}
