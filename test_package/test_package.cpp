// Registers an instance on the embedded store and finds it; links the stub, too.
#include <asio.hpp>
#include <iostream>
#include <registry/registry.hpp>

asio::awaitable<void> come_and_go(registry::Registry& reg) {
  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};
  co_await reg.register_instance(self);
  const auto found = co_await reg.get_service("user-service");
  std::cout << found.at(0).id << " is registered\n";
  co_await reg.close();
}

int main() {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::etcd::Connector etcd(io.get_executor());
  registry::Registry reg(store);
  asio::co_spawn(io, come_and_go(reg), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
}
