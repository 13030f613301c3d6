// BidiStream against real gRPC servers: every way in which a stream goes on and ends.
#include <doctest/doctest.h>

#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "chat_server.hpp"
#include "registry/rpc/bidi_stream.hpp"
#include "rig/eventually.hpp"
#include "rig/net.hpp"
#include "rig/run.hpp"
#include "rig/seed.hpp"

using namespace rig;
using namespace std::chrono_literals;
using greeter::HelloReply;
using greeter::HelloRequest;

namespace {

using Chat = registry::BidiStream<HelloRequest, HelloReply>;

HelloRequest hello(const std::string& name) {
  HelloRequest request;
  request.set_name(name);
  return request;
}

std::unique_ptr<grpc::ClientContext> plain() { return std::make_unique<grpc::ClientContext>(); }

// The stub is gone before the call is.
Chat open(const asio::any_io_executor& executor, const std::shared_ptr<grpc::Channel>& channel,
          std::unique_ptr<grpc::ClientContext> context = plain()) {
  const auto stub = greeter::Greeter::NewStub(channel);
  return Chat(executor, std::move(context),
              [&](grpc::ClientContext* call, auto* reactor) { stub->async()->Chat(call, reactor); });
}

std::string text(const std::optional<HelloReply>& reply) { return reply ? reply->message() : "(end)"; }

}  // namespace

TEST_CASE("bidi stream: writes, reads, half-close, the end and its status") {
  ChatServer server;
  asio::io_context io;
  auto talk = [](ChatServer& peer) -> asio::awaitable<void> {
    Chat chat = open(co_await asio::this_coro::executor, peer.channel());
    const HelloRequest lvalue = hello("ann");
    CHECK(co_await chat.write(lvalue));
    CHECK(text(co_await chat.read()) == "hello ann");
    HelloRequest moved = hello("bob");
    CHECK(co_await chat.write(std::move(moved)));
    CHECK(co_await chat.write(hello("cid")));
    CHECK_FALSE(chat.ended());
    chat.writes_done();
    chat.writes_done();
    CHECK_FALSE(co_await chat.write(hello("too late")));
    CHECK(text(co_await chat.read()) == "hello bob");
    CHECK(text(co_await chat.read()) == "hello cid");
    CHECK(text(co_await chat.read()) == "(end)");
    CHECK(text(co_await chat.read()) == "(end)");
    CHECK(chat.ended());
    const grpc::Status status = co_await chat.finish();
    CHECK(status.ok());
    CHECK((co_await chat.finish()).ok());
    CHECK_FALSE(co_await chat.write(hello("dan")));
    co_await chat.wait_ended();
  };
  run(io, talk(server));
  CHECK(server.half_closed == 1);
}

TEST_CASE("bidi stream: finish half-closes, drops what nobody reads, and tells how it went") {
  ChatServer server;
  asio::io_context io;
  auto talk = [](ChatServer& peer) -> asio::awaitable<void> {
    Chat chat = open(co_await asio::this_coro::executor, peer.channel());
    CHECK(co_await chat.write(hello("flood 1000")));
    CHECK((co_await chat.finish()).ok());
    CHECK(text(co_await chat.read()) == "(end)");
  };
  run(io, talk(server));
  CHECK(server.sent == 1000);
  CHECK(server.half_closed == 1);
}

TEST_CASE("bidi stream: a server that fails: its status, its last messages, and writes that say so") {
  ChatServer server;
  asio::io_context io;
  auto talk = [](ChatServer& peer) -> asio::awaitable<void> {
    Chat chat = open(co_await asio::this_coro::executor, peer.channel());
    CHECK(co_await chat.write(hello("ann")));
    CHECK(co_await chat.write(hello("abort")));
    co_await chat.wait_ended();  // reads nothing
    CHECK(text(co_await chat.read()) == "hello ann");
    CHECK(text(co_await chat.read()) == "(end)");
    CHECK_FALSE(co_await chat.write(hello("bob")));
    const grpc::Status status = co_await chat.finish();
    CHECK(status.error_code() == grpc::StatusCode::ABORTED);
    CHECK(status.error_message() == "asked to");
  };
  run(io, talk(server));
}

TEST_CASE("bidi stream: nobody listens: the stream ends, and finish says UNAVAILABLE") {
  const Port port;
  asio::io_context io;
  auto talk = [](std::string endpoint) -> asio::awaitable<void> {
    const auto channel = grpc::CreateChannel(endpoint, grpc::InsecureChannelCredentials());
    Chat chat = open(co_await asio::this_coro::executor, channel);
    CHECK_FALSE(co_await chat.write(hello("ann")));
    CHECK(text(co_await chat.read()) == "(end)");
    CHECK((co_await chat.finish()).error_code() == grpc::StatusCode::UNAVAILABLE);
  };
  run(io, talk(port.endpoint()));
}

TEST_CASE("bidi stream: the caller's metadata and deadline hold") {
  ChatServer server;
  asio::io_context io;
  auto talk = [](ChatServer& peer) -> asio::awaitable<void> {
    auto context = plain();
    context->AddMetadata("who", "somebody");
    context->set_deadline(std::chrono::system_clock::now() + 300ms);
    Chat chat = open(co_await asio::this_coro::executor, peer.channel(), std::move(context));
    CHECK(co_await chat.write(hello("ann")));
    const auto reply = co_await chat.read();
    REQUIRE(reply);
    CHECK(reply->served_by() == "somebody");
    CHECK(text(co_await chat.read()) == "(end)");
    CHECK((co_await chat.finish()).error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
  };
  run(io, talk(server));
}

TEST_CASE("bidi stream: a server that does not read slows the writer down, and nothing is lost") {
  ChatServer server;
  asio::thread_pool pool(2);
  std::atomic<int> written{0};
  auto chat = std::make_shared<Chat>(open(pool.get_executor(), server.channel()));
  auto send = [](std::shared_ptr<Chat> to, std::atomic<int>& count) -> asio::awaitable<void> {
    CHECK(co_await to->write(hello("stall")));
    for (int i = 0; i < 100; ++i) {
      CHECK(co_await to->write(hello(std::string(100'000, 'x'))));
      ++count;
    }
    to->writes_done();
  };
  auto receive = [](std::shared_ptr<Chat> from) -> asio::awaitable<int> {
    int replies = 0;
    while (co_await from->read()) ++replies;
    co_return replies;
  };
  std::atomic<bool> sent{false};
  asio::co_spawn(pool, send(chat, written), [&](std::exception_ptr) { sent = true; });
  CHECK(eventually([&] { return server.received == 1; }, "stalled"));
  std::this_thread::sleep_for(300ms);
  CHECK(written < 90);  // 10 MB do not fit into HTTP/2's windows
  server.release();
  CHECK(run(pool, receive(chat)) == 100);
  CHECK(eventually([&] { return sent.load(); }, "all sent"));
  CHECK(written == 100);
  pool.join();
}

TEST_CASE("bidi stream: a reader that does not read slows the server down, and nothing is lost") {
  ChatServer server;
  asio::thread_pool pool(2);
  Chat chat = open(pool.get_executor(), server.channel());
  CHECK(run(pool, chat.write(hello("flood 20000"))));
  chat.writes_done();
  CHECK(eventually([&] { return server.sent > 10; }, "flooding"));
  std::this_thread::sleep_for(300ms);
  CHECK(server.sent < 10'000);  // 20 MB do not fit into HTTP/2's windows
  auto receive = [](Chat& from) -> asio::awaitable<int> {
    int replies = 0;
    while (co_await from.read()) ++replies;
    co_return replies;
  };
  CHECK(run(pool, receive(chat)) == 20'000);
  CHECK(run(pool, chat.finish()).ok());
}

TEST_CASE("bidi stream: an abandoned read loses nothing, an abandoned write that waits is not sent") {
  ChatServer server;
  asio::thread_pool pool(2);
  Chat chat = open(pool.get_executor(), server.channel());
  CHECK_THROWS_AS(run(pool, chat.read(), 50ms), TooLate);
  CHECK(run(pool, chat.write(hello("ann"))));
  CHECK(text(run(pool, chat.read())) == "hello ann");

  CHECK(run(pool, chat.write(hello("stall"))));
  bool full = false;
  int taken = 0;
  for (; !full && taken < 200; ++taken) {
    try {
      const bool sent = run(pool, chat.write(hello(std::string(100'000, 'x'))), 300ms);
      CHECK(sent);
    } catch (const TooLate&) {
      full = true;  // this one is gRPC's: it is sent
    }
  }
  CHECK(full);
  CHECK_THROWS_AS(run(pool, chat.write(hello("abandoned")), 50ms), TooLate);
  server.release();
  CHECK(run(pool, chat.write(hello("bob"))));
  chat.writes_done();
  std::vector<std::string> replies;
  for (;;) {
    const auto reply = run(pool, chat.read());
    if (!reply) break;
    replies.push_back(reply->message());
  }
  CHECK(static_cast<int>(replies.size()) == taken + 1);
  CHECK(replies.back() == "hello bob");
  CHECK(std::count(replies.begin(), replies.end(), "hello abandoned") == 0);
}

TEST_CASE(
    "bidi stream: several writers at once, on several threads: every message once, each writer's in order") {
  ChatServer server;
  asio::thread_pool pool(3);
  Chat chat = open(pool.get_executor(), server.channel());
  constexpr int writers = 8, messages = 200;
  std::atomic<int> writing{writers};
  auto send = [](Chat& to, int writer, std::atomic<int>& left) -> asio::awaitable<void> {
    for (int i = 0; i < messages; ++i) {
      CHECK(co_await to.write(hello(std::to_string(writer) + "/" + std::to_string(i))));
    }
    if (--left == 0) to.writes_done();
  };
  for (int i = 0; i < writers; ++i) asio::co_spawn(pool, send(chat, i, writing), asio::detached);
  auto receive = [](Chat& from) -> asio::awaitable<std::map<std::string, int>> {
    std::map<std::string, int> next;
    while (auto reply = co_await from.read()) {
      const std::string& got = reply->message();
      const std::size_t slash = got.find('/');
      int& expected = next[got.substr(0, slash)];
      CHECK(got.substr(slash + 1) == std::to_string(expected));
      ++expected;
    }
    co_return next;
  };
  const auto received = run(pool, receive(chat));
  CHECK(received.size() == writers);
  for (const auto& [writer, count] : received) CHECK(count == messages);
  pool.join();
}

TEST_CASE("bidi stream: cancel and destruction end what is pending, and the server hears of it") {
  ChatServer server;
  asio::thread_pool pool(2);
  for (const bool destroy : {false, true}) {
    CAPTURE(destroy);
    auto chat = std::make_unique<Chat>(open(pool.get_executor(), server.channel()));
    CHECK(run(pool, chat->write(hello("ann"))));
    CHECK(text(run(pool, chat->read())) == "hello ann");
    std::promise<std::string> read_promise;
    auto read = read_promise.get_future();
    std::promise<grpc::Status> status_promise;
    auto finished = status_promise.get_future();
    std::atomic<bool> ended{false};
    asio::co_spawn(pool, chat->read(), [&](std::exception_ptr, std::optional<HelloReply> reply) {
      read_promise.set_value(text(reply));
    });
    asio::co_spawn(pool, chat->wait_ended(), [&](std::exception_ptr) { ended = true; });
    std::this_thread::sleep_for(20ms);
    const int before = server.cancelled;
    if (destroy) {
      chat.reset();
    } else {
      chat->cancel();
      chat->cancel();
      asio::co_spawn(pool, chat->finish(), [&](std::exception_ptr, grpc::Status status) {
        status_promise.set_value(std::move(status));
      });
      CHECK(finished.get().error_code() == grpc::StatusCode::CANCELLED);
    }
    CHECK(read.get() == "(end)");
    CHECK(eventually([&] { return ended.load(); }, "wait_ended returned"));
    CHECK(eventually([&] { return server.cancelled == before + 1; }, "the server saw it"));
  }
}

TEST_CASE("bidi stream: a server that goes away ends the stream") {
  ChatServer server;
  asio::thread_pool pool(2);
  Chat chat = open(pool.get_executor(), server.channel());
  CHECK(run(pool, chat.write(hello("ann"))));
  CHECK(text(run(pool, chat.read())) == "hello ann");
  server.stop();
  run(pool, chat.wait_ended());
  CHECK(text(run(pool, chat.read())) == "(end)");
  CHECK_FALSE(run(pool, chat.finish()).ok());
}

TEST_CASE("bidi stream: the handle moves, and an empty one has ended") {
  ChatServer server;
  asio::io_context io;
  auto talk = [](ChatServer& peer) -> asio::awaitable<void> {
    Chat empty;
    CHECK_FALSE(empty);
    CHECK(empty.ended());
    empty.cancel();
    empty.writes_done();
    CHECK(text(co_await empty.read()) == "(end)");
    CHECK_FALSE(co_await empty.write(hello("ann")));
    co_await empty.wait_ended();
    CHECK((co_await empty.finish()).error_code() == grpc::StatusCode::CANCELLED);

    Chat first = open(co_await asio::this_coro::executor, peer.channel());
    Chat second(std::move(first));
    CHECK(second);
    CHECK(co_await second.write(hello("ann")));
    empty = std::move(second);
    CHECK(text(co_await empty.read()) == "hello ann");
    CHECK_FALSE(co_await second.write(hello("bob")));
    empty = open(co_await asio::this_coro::executor, peer.channel());
    CHECK(co_await empty.write(hello("cid")));
    CHECK(text(co_await empty.read()) == "hello cid");
  };
  run(io, talk(server));
}

TEST_CASE("bidi stream: handle and context are destroyed in either order, with everything pending") {
  ChatServer server;
  for (int round = 0; round < 40; ++round) {
    auto io = std::make_unique<asio::io_context>();
    auto chat = std::make_unique<Chat>(open(io->get_executor(), server.channel()));
    asio::co_spawn(*io, chat->read(), asio::detached);
    asio::co_spawn(*io, chat->write(hello("stall")), asio::detached);
    asio::co_spawn(*io, chat->write(hello(std::string(1'000'000, 'x'))), asio::detached);
    asio::co_spawn(*io, chat->write(hello("ann")), asio::detached);
    asio::co_spawn(*io, chat->wait_ended(), asio::detached);
    io->run_for(std::chrono::milliseconds(round % 5));
    if (round % 2 == 0) {
      io.reset();
      CHECK(chat->ended());
      asio::io_context other;
      CHECK_FALSE(run(other, chat->finish()).ok());
      chat.reset();
    } else {
      chat.reset();
      if (round % 4 == 1) io->poll();
      io.reset();
    }
  }
  CHECK(eventually([&] { return server.open == 0; }, "no call is left"));
}

TEST_CASE("bidi stream: opened, used, cancelled and destroyed on several threads at random moments") {
  ChatServer server;
  const auto channel = server.channel();
  asio::thread_pool pool(2);
  std::atomic<int> running{0};
  std::mt19937_64 random(test_seed("bidi stream"));
  for (int round = 0; round < 500; ++round) {
    auto chat = std::make_shared<Chat>(open(pool.get_executor(), channel));
    auto write = [](std::shared_ptr<Chat> to) -> asio::awaitable<void> {
      while (co_await to->write(hello("ann"))) {
      }
    };
    auto read = [](std::shared_ptr<Chat> from) -> asio::awaitable<void> {
      while (co_await from->read()) {
      }
    };
    const auto done = [&running](std::exception_ptr) { --running; };
    running += 2;
    asio::co_spawn(pool, write(chat), done);
    asio::co_spawn(pool, read(chat), done);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    switch (random() % 3) {
      case 0: chat->cancel(); break;
      case 1: *chat = Chat(); break;
      default: chat->writes_done();
    }
  }
  CHECK(eventually([&] { return running == 0 && server.open == 0; }, "every stream ended"));
}
