// Calls the greeter service once a second over whichever instances are there: start some greeter_server beside it, stop
// some, and watch the calls follow.
//   greeter_client 127.0.0.1:2379
#include <greeter.grpc.pb.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/use_future.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <registry/registry.hpp>
#include <string>
#include <thread>

namespace {

void greet(greeter::Greeter::StubInterface& stub, const char* which) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  greeter::HelloRequest request;
  request.set_name("you");
  greeter::HelloReply reply;
  const grpc::Status status = stub.SayHello(&context, request, &reply);
  std::printf("%s: %s\n", which,
              status.ok() ? (reply.message() + ", from " + reply.served_by()).c_str()
                          : status.error_message().c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s etcd-host:port\n", argv[0]);
    return 2;
  }
  asio::io_context io;
  registry::etcd::ConnectorConfig config;
  config.endpoints = {argv[1]};
  registry::etcd::Connector etcd(io.get_executor(), config);
  registry::Registry reg(etcd);
  registry::Resolver resolver(reg);
  // The registry works on this thread; the stubs below are ordinary blocking ones.
  auto guard = asio::make_work_guard(io);
  std::jthread worker([&io] { io.run(); });
  const struct Stop {
    asio::io_context& io;
    ~Stop() { io.stop(); }
  } stop{io};

  // In a coroutine this is co_await resolver.get_connection(...): it returns when the service's list is loaded.
  auto connection = asio::co_spawn(io, resolver.get_connection("greeter", grpc::InsecureChannelCredentials()),
                                   asio::use_future);
  const auto followed = greeter::Greeter::NewStub(connection.get());
  // Or just by its target, with anything that makes a channel.
  const auto plain = greeter::Greeter::NewStub(
      grpc::CreateChannel(resolver.target("greeter"), grpc::InsecureChannelCredentials()));

  for (int i = 0; i < 60; ++i) {
    greet(*followed, "get_connection");
    greet(*plain, "CreateChannel");
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  asio::co_spawn(io, resolver.close(), asio::use_future).get();
  asio::co_spawn(io, reg.close(), asio::use_future).get();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "greeter_client: %s\n", error.what());
  return 1;
}
