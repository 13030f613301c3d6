// What README.md shows as the complete program, and what every consumer beside this file has as its main.cpp.
// begin: complete program
#include <asio.hpp>
#include <chrono>
#include <csignal>
#include <exception>
#include <iostream>
#include <registry/registry.hpp>

using namespace std::chrono_literals;

asio::awaitable<void> serve(registry::Registry& reg) {
  asio::signal_set signals(co_await asio::this_coro::executor, SIGINT, SIGTERM);

  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};
  self.metadata = {{"weight", "100"}, {"zone", "a"}};
  auto registration = co_await reg.register_instance(self, 30s);  // throws if it cannot
  std::cout << registration.id << " is registered for " << registration.ttl.count()
            << " s at a time; Ctrl-C ends it" << std::endl;

  co_await signals.async_wait(asio::use_awaitable);
  co_await reg.close();  // the key is gone when this returns
}

int main(int argc, char** argv) try {
  asio::io_context io;
  registry::etcd::ConnectorConfig config;
  config.endpoints = {argc > 1 ? argv[1] : "127.0.0.1:2379"};
  registry::etcd::Connector etcd(io.get_executor(), config);
  registry::Registry reg(etcd);

  asio::co_spawn(io, serve(reg), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);  // out of io.run()
  });
  io.run();
} catch (const std::exception& error) {
  std::cerr << "my_server: " << error.what() << '\n';
  return 1;
}
// end: complete program
