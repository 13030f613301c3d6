// Publishes the services in etcd to gRPC clients of other processes and languages, by the rules below, until SIGINT or
// SIGTERM. Prints the bootstrap that such a client needs; it then calls `xds:///greeter`, say.
//   control_plane 127.0.0.1:2379 127.0.0.1:18000
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <registry/registry.hpp>
#include <string>

namespace {

registry::ResolverConfig rules() {
  registry::ResolverConfig config;
  config.zone = "a";           // instances of this zone first,
  config.region = "eu";        // then those of this region, then the rest
  config.max_endpoints = 200;  // of more instances each client gets a part

  registry::ServiceRule canary;
  canary.version_shares = {{"v1", 90}, {"v2", 10}};
  config.services["user-service"] = canary;

  registry::ServiceRule one_at_a_time;
  one_at_a_time.balancing = registry::Balancing::PickFirst;
  config.services["scheduler"] = one_at_a_time;
  return config;
}

asio::awaitable<void> run(registry::Registry& reg, std::string listen) {
  registry::ResolverConfig config = rules();
  config.listen = listen;
  registry::Resolver resolver(reg, config);

  const std::string address = listen.substr(0, listen.rfind(':') + 1) + std::to_string(resolver.port());
  std::printf("GRPC_XDS_BOOTSTRAP_CONFIG='{\"xds_servers\":[{\"server_uri\":\"%s\",", address.c_str());
  std::printf("\"channel_creds\":[{\"type\":\"insecure\"}],\"server_features\":[\"xds_v3\"]}],");
  std::printf("\"node\":{\"id\":\"my-client\",\"locality\":{}}}'\n");
  std::fflush(stdout);

  asio::signal_set signals(co_await asio::this_coro::executor, SIGINT, SIGTERM);
  co_await signals.async_wait(asio::use_awaitable);
  co_await resolver.close();
  co_await reg.close();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s etcd-host:port listen-host:port\n", argv[0]);
    return 2;
  }
  asio::io_context io;
  registry::etcd::ConnectorConfig settings;
  settings.endpoints = {argv[1]};
  registry::etcd::Connector etcd(io.get_executor(), settings);
  registry::Registry reg(etcd);
  asio::co_spawn(io, run(reg, argv[2]), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "control_plane: %s\n", error.what());
  return 1;
}
