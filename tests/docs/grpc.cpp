// The code of docs/grpc.md: real gRPC servers, registered in a MemoryStore, and channels that follow them.
#include <doctest/doctest.h>
#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <asio/co_spawn.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_future.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "integration/chat_server.hpp"
#include "registry/config/follow_settings.hpp"
#include "registry/registry.hpp"
#include "rig/grpc_world.hpp"
#include "rig/temp_dir.hpp"

using namespace std::chrono_literals;
using rig::eventually;

namespace {

asio::awaitable<void> channels(registry::Registry& reg) {
  // begin: channel
  registry::Resolver resolver(reg);
  auto channel = co_await resolver.get_connection("greeter", grpc::InsecureChannelCredentials());
  // end: channel

  // begin: target
  const auto plain = greeter::Greeter::NewStub(
      grpc::CreateChannel(resolver.target("greeter"), grpc::InsecureChannelCredentials()));
  // end: target
  const auto stub = greeter::Greeter::NewStub(channel);
  CHECK(eventually([&] { return rig::spread(*stub, 20).size() == 2; }, "both are called"));
  CHECK(eventually([&] { return rig::spread(*plain, 20).size() == 2; }, "both are called"));
}

registry::ResolverConfig rules() {
  // begin: rules
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
  // end: rules
  return config;
}

asio::awaitable<void> server(registry::Registry& reg, std::string id, std::string listen, std::string etcd,
                             grpc::Service& service, std::function<void(int)> started) {
  // begin: serve
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  registry::ServeConfig config(registry::ServiceInstance("greeter", id), listen);  // "0.0.0.0:9001"
  config.route_to = etcd;                                                          // "10.0.0.1:2379"
  config.on_registered = [&](const registry::Registration&, int port) { started(port); };
  co_await registry::serve(reg, builder, config);  // until SIGINT or SIGTERM
  // end: serve
}

asio::awaitable<void> leave(registry::Registry& reg) {
  // begin: leave
  co_await reg.deregister("greeter-1");
  asio::steady_timer pause(co_await asio::this_coro::executor, 500ms);
  co_await pause.async_wait(asio::use_awaitable);  // channels hear of it; calls are still answered
  // end: leave
}

asio::awaitable<void> changing_server(registry::Registry& reg, grpc::ServerBuilder& builder,
                                      registry::ServeConfig config,
                                      registry::Generator<registry::Settings> reloads) {
  // begin: changes
  auto changes = registry::serve_changes(std::move(reloads), [](const registry::Settings& now) {
    return registry::ServeChange(*now.instance, now.ttl, now.server.listen_address);
  });
  co_await registry::serve(reg, builder, config, std::move(changes));
  // end: changes
}

// begin: open
using Chat = registry::BidiStream<greeter::HelloRequest, greeter::HelloReply>;

asio::awaitable<std::shared_ptr<Chat>> open_chat(std::shared_ptr<grpc::Channel> channel,
                                                 const registry::ServiceInstance&) {
  const auto stub = greeter::Greeter::NewStub(channel);
  const auto executor = co_await asio::this_coro::executor;
  auto bind = [&stub](grpc::ClientContext* context, auto* reactor) { stub->async()->Chat(context, reactor); };
  auto chat = std::make_shared<Chat>(executor, std::make_unique<grpc::ClientContext>(), bind);
  greeter::HelloRequest request;
  request.set_name("newcomer");
  co_await chat->write(request);
  const auto reply = co_await chat->read();
  if (reply) co_return chat;  // open: the server has answered once
  const grpc::Status status = co_await chat->finish();
  throw std::runtime_error(status.error_message());
}
// end: open

asio::awaitable<void> fan_out(registry::Registry& reg) {
  // begin: streams
  registry::StreamManagerConfig<Chat> config("greeter", nullptr, open_chat);  // nullptr: without TLS
  registry::StreamManager<Chat> chats(reg, config);
  co_await chats.start();
  // end: streams
  co_await rig::until([&] { return chats.streams().size() == 1; });
  co_await chats.stop();
}

registry::ServiceInstance greeter_at(const std::string& id, const std::string& endpoint) {
  registry::ServiceInstance instance("greeter", id);
  instance.endpoints = {"grpc://" + endpoint};
  return instance;
}

}  // namespace

TEST_CASE("grpc docs: channels by connection and by target; leaving without a failed call") {
  rig::Greeter one("greeter-1"), two("greeter-2");
  rig::GrpcWorld world;
  world.run(world.reg.register_instance(greeter_at("greeter-1", one.endpoint())));
  world.run(world.reg.register_instance(greeter_at("greeter-2", two.endpoint())));
  world.run(channels(world.reg));
  world.run(leave(world.reg));
  CHECK(world.run(world.reg.get_service("greeter")).size() == 1);
}

TEST_CASE("grpc docs: the rules are rules") {
  rig::GrpcWorld world(rules());
  CHECK(world.resolver.target("user-service").starts_with("xds:///"));
}

TEST_CASE("grpc docs: a server is registered while it serves, until SIGTERM") {
  rig::GrpcWorld world;
  greeter::Greeter::Service service;
  std::promise<int> port;
  const auto started = [&port](int real) { port.set_value(real); };
  auto serving = server(world.reg, "greeter-1", "127.0.0.1:0", "127.0.0.1:2379", service, started);
  auto served = asio::co_spawn(world.pool, std::move(serving), asio::use_future);
  const int real = port.get_future().get();
  const auto listed = world.run(world.reg.get_service("greeter"));
  REQUIRE(listed.size() == 1);
  CHECK(listed.front().endpoints.front() == "grpc://127.0.0.1:" + std::to_string(real));
  std::raise(SIGTERM);
  served.get();
  CHECK(world.run(world.reg.get_service("greeter")).empty());
}

TEST_CASE("grpc docs: a server takes changes from its file") {
  const rig::TempDir folder;
  const std::string file = folder / "service.yaml";
  const auto write = [&](int weight) {
    std::ofstream(file + ".new") << "instance: {id: greeter-1, name: greeter, weight: " << weight
                                 << "}\nserver: {listen_address: \"127.0.0.1:0\"}\n";
    std::filesystem::rename(file + ".new", file);
  };
  write(100);
  rig::GrpcWorld world;
  greeter::Greeter::Service service;
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  const auto settings = registry::load_settings(file);
  registry::ServeConfig config(*settings.instance, settings.server.listen_address);
  config.drain_delay = 0ms;
  std::promise<void> registered;
  config.on_registered = [&](const registry::Registration&, int) { registered.set_value(); };
  auto reloads = registry::follow_settings(world.pool.get_executor(), file);
  auto served = asio::co_spawn(world.pool, changing_server(world.reg, builder, config, std::move(reloads)),
                               asio::use_future);
  registered.get_future().get();
  write(50);
  CHECK(eventually([&] { return world.run(world.reg.get_service("greeter")).front().weight() == 50; }));
  std::raise(SIGTERM);
  served.get();
}

TEST_CASE("grpc docs: one stream to each instance") {
  rig::ChatServer chat;
  rig::GrpcWorld world;
  world.run(world.reg.register_instance(greeter_at("greeter-1", chat.endpoint())));
  world.run(fan_out(world.reg));
  CHECK(chat.opened >= 1);
}
