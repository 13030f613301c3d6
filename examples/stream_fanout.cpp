// Keeps one stream to every greeter server there is, and greets all of them every second until SIGINT or SIGTERM:
//   stream_fanout 127.0.0.1:2379
// Start and stop some greeter_server programs meanwhile.
#include <greeter.grpc.pb.h>

#include <asio/co_spawn.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <registry/registry.hpp>
#include <registry/rpc/bidi_stream.hpp>
#include <registry/rpc/stream_manager.hpp>
#include <stdexcept>
#include <string>

namespace {

using Chat = registry::BidiStream<greeter::HelloRequest, greeter::HelloReply>;

greeter::HelloRequest hello(const std::string& name) {
  greeter::HelloRequest request;
  request.set_name(name);
  return request;
}

// A stream counts as open when the server has answered once.
asio::awaitable<std::shared_ptr<Chat>> open_chat(std::shared_ptr<grpc::Channel> channel,
                                                 const registry::ServiceInstance&) {
  const auto stub = greeter::Greeter::NewStub(channel);
  const auto executor = co_await asio::this_coro::executor;
  auto bind = [&stub](grpc::ClientContext* context, auto* reactor) { stub->async()->Chat(context, reactor); };
  auto chat = std::make_shared<Chat>(executor, std::make_unique<grpc::ClientContext>(), bind);
  const auto request = hello("newcomer");
  co_await chat->write(request);
  const auto reply = co_await chat->read();
  if (reply) co_return chat;
  const grpc::Status status = co_await chat->finish();
  throw std::runtime_error(status.error_message());
}

asio::awaitable<void> greet_all(registry::StreamManager<Chat>& chats) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (int round = 1;; ++round) {
    const auto streams = chats.streams();
    std::printf("round %d: %zu streams\n", round, streams.size());
    const auto request = hello("round " + std::to_string(round));
    for (const auto& [id, chat] : streams) {
      co_await chat->write(request);
      const auto reply = co_await chat->read();
      std::printf("  %s: %s\n", id.c_str(), reply ? reply->message().c_str() : "(gone)");
    }
    std::fflush(stdout);
    timer.expires_after(std::chrono::seconds(1));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

asio::awaitable<void> run(registry::Registry& reg) {
  using namespace asio::experimental::awaitable_operators;
  registry::StreamManagerConfig<Chat> config("greeter", nullptr, open_chat);
  registry::StreamManager<Chat> chats(reg, config);
  co_await chats.start();
  asio::signal_set signals(co_await asio::this_coro::executor, SIGINT, SIGTERM);
  co_await (greet_all(chats) || signals.async_wait(asio::use_awaitable));
  co_await chats.stop();
  co_await reg.close();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s etcd-host:port\n", argv[0]);
    return 2;
  }
  asio::io_context io;
  registry::etcd::ConnectorConfig settings;
  settings.endpoints = {argv[1]};
  registry::etcd::Connector etcd(io.get_executor(), settings);
  registry::Registry reg(etcd);
  asio::co_spawn(io, run(reg), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "stream_fanout: %s\n", error.what());
  return 1;
}
