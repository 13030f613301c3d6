// A small server: it registers itself and follows another service. What is used is compiled here, too.
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <cstdio>
#include <registry/registry.hpp>

namespace {

asio::awaitable<void> run(registry::Registry& reg) {
  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};
  co_await reg.register_instance(self, std::chrono::seconds(30));
  auto events = reg.watch("order-service");
  while (auto event = co_await events.next()) std::puts(event->service.id.c_str());
}

}  // namespace

int main() {
  asio::io_context io;
  registry::etcd::Connector etcd(io.get_executor());
  registry::Registry reg(etcd);
  asio::co_spawn(io, run(reg), asio::detached);
  io.run();
}
