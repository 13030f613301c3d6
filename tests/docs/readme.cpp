// The code of README.md, run on a MemoryStore.
#include <doctest/doctest.h>

#include <asio/co_spawn.hpp>
#include <chrono>
#include <exception>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "registry/registry.hpp"
#include "rig/grpc_world.hpp"

using namespace std::chrono_literals;

namespace {

// begin: overview
asio::awaitable<void> serve(registry::Registry& reg) {
  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};
  co_await reg.register_instance(self, 30s);  // renewed, guarded and restored from here on

  auto events = reg.watch("user-service");
  while (auto event = co_await events.next()) {  // every change, in order, once, through every failure
    std::cout << event->revision << ' ' << event->service.id << '\n';
  }
}
// end: overview

/// What is printed while this lives.
struct Printed {
  std::ostringstream text;
  std::streambuf* const before = std::cout.rdbuf(text.rdbuf());
  ~Printed() { std::cout.rdbuf(before); }
};

}  // namespace

TEST_CASE("readme: an instance is registered, and the watch sees it, until the registry is closed") {
  const Printed printed;
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  bool ended = false;
  asio::co_spawn(io, serve(reg), [&](std::exception_ptr error) {
    CHECK(error == nullptr);
    ended = true;
  });
  rig::run(io, rig::until([&] { return printed.text.str().ends_with(" user-1\n"); }));
  CHECK_FALSE(ended);
  rig::run(io, reg.close());
  rig::run(io, rig::until([&] { return ended; }));
}

TEST_CASE("readme: a stub follows a service") {
  using greeter::Greeter;
  rig::Greeter one("greeter-1"), two("greeter-2");
  rig::GrpcWorld world;
  for (const auto* server : {&one, &two}) {
    registry::ServiceInstance instance("greeter", server->id());
    instance.endpoints = {"grpc://" + server->endpoint()};
    world.run(world.reg.register_instance(instance));
  }
  const auto connect = [](registry::Registry& reg) -> asio::awaitable<std::shared_ptr<Greeter::Stub>> {
    // begin: grpc
    registry::Resolver resolver(reg);
    auto channel = co_await resolver.get_connection("greeter", grpc::InsecureChannelCredentials());
    auto stub = Greeter::NewStub(channel);  // follows the service from here on
    // end: grpc
    CHECK(rig::eventually([&] { return rig::spread(*stub, 20).size() == 2; }, "both are called"));
    co_return std::move(stub);
  };
  CHECK(world.run(connect(world.reg)) != nullptr);
}
