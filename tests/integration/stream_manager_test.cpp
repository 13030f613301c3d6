// StreamManager against real gRPC servers: its map is the set of live instances, whatever happens to them.
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
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "chat_server.hpp"
#include "registry/rpc/bidi_stream.hpp"
#include "registry/rpc/stream_manager.hpp"
#include "rig/seed.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;
using greeter::HelloReply;
using greeter::HelloRequest;

namespace {

using Chat = BidiStream<HelloRequest, HelloReply>;
using Chats = StreamManager<Chat>;
using ChatsConfig = StreamManagerConfig<Chat>;

HelloRequest hello(const std::string& name) {
  HelloRequest request;
  request.set_name(name);
  return request;
}

// A stream counts as open when the server has answered.
asio::awaitable<std::shared_ptr<Chat>> open_chat(std::shared_ptr<grpc::Channel> channel,
                                                 const ServiceInstance& instance) {
  const auto stub = greeter::Greeter::NewStub(channel);
  auto chat = std::make_shared<Chat>(
      co_await asio::this_coro::executor, std::make_unique<grpc::ClientContext>(),
      [&](grpc::ClientContext* context, auto* reactor) { stub->async()->Chat(context, reactor); });
  co_await chat->write(hello(instance.id));
  const auto reply = co_await chat->read();
  if (reply) co_return chat;
  const grpc::Status status = co_await chat->finish();
  throw std::runtime_error(status.error_message());
}

ChatsConfig quick(ChatsConfig::Factory factory = open_chat) {
  ChatsConfig config("chat", nullptr, std::move(factory));
  config.retry_interval = 20ms;
  config.max_retry_interval = 200ms;
  config.open_timeout = 2000ms;
  return config;
}

asio::awaitable<std::string> ask(std::shared_ptr<Chat> chat) {
  if (!co_await chat->write(hello("who"))) co_return "(ended)";
  const auto reply = co_await chat->read();
  co_return reply ? reply->served_by() : "(ended)";
}

ServiceInstance chat_instance(const std::string& id, const std::string& endpoint) {
  ServiceInstance made("chat", id);
  made.endpoints = {"grpc://" + endpoint};
  return made;
}

struct ChatWorld : MemoryWorld {
  void join(const std::string& id, const ChatServer& server) {
    run(reg.register_instance(chat_instance(id, server.endpoint())));
  }
  void move(const std::string& id, const ChatServer& server) {
    run(reg.update_instance(chat_instance(id, server.endpoint())));
  }
  void set_status(const std::string& id, const ChatServer& server, const std::string& status) {
    ServiceInstance changed = chat_instance(id, server.endpoint());
    changed.metadata["status"] = status;
    run(reg.update_instance(changed));
  }
};

std::set<std::string> ids(const Chats& chats) {
  std::set<std::string> found;
  for (const auto& [id, chat] : chats.streams()) found.insert(id);
  return found;
}

bool has(const Chats& chats, const std::set<std::string>& wanted) { return ids(chats) == wanted; }

}  // namespace

TEST_CASE("stream manager: a stream to each instance, closed when it goes, and all of them at the end") {
  ChatWorld world;
  ChatServer a("a"), b("b"), c("c");
  world.join("a", a);
  world.join("b", b);
  Chats chats(world.reg, quick());
  CHECK(chats.streams().empty());
  world.run(chats.start());
  world.run(chats.start());
  CHECK(eventually([&] { return has(chats, {"a", "b"}); }, "a and b"));
  world.join("c", c);
  CHECK(eventually([&] { return has(chats, {"a", "b", "c"}); }, "c came"));
  for (const auto& [id, chat] : chats.streams()) CHECK(world.run(ask(chat)) == id);
  const auto kept = chats.streams().at("b");
  world.run(world.reg.deregister("b"));
  CHECK(eventually([&] { return has(chats, {"a", "c"}); }, "b went"));
  CHECK(eventually([&] { return b.cancelled == 1; }, "its server heard of it"));
  CHECK(eventually([&] { return kept->ended(); }, "holding on to it does not keep it"));
  world.run(chats.stop());
  CHECK(chats.streams().empty());
  CHECK(eventually([&] { return a.open == 0 && c.open == 0; }, "all closed"));
  CHECK(a.opened == 1);
  world.run(chats.stop());
  CHECK(world.run(code_of(chats.start())) == errc::closed);
}

TEST_CASE("stream manager: a stream that ends is opened again, with pauses that grow") {
  ChatWorld world;
  ChatServer server;
  world.join("a", server);
  std::atomic<int> tries{0}, failures{1'000'000};
  auto config = quick([&](std::shared_ptr<grpc::Channel> channel,
                          const ServiceInstance& instance) -> asio::awaitable<std::shared_ptr<Chat>> {
    if (++tries <= failures) throw std::runtime_error("not yet");
    return open_chat(std::move(channel), instance);
  });
  Chats chats(world.reg, std::move(config), observer());
  world.run(chats.start());
  std::this_thread::sleep_for(1s);
  const int in_a_second = tries;
  CHECK(in_a_second >= 4);   // 20 ms doubling to 200 ms
  CHECK(in_a_second <= 40);  // no busy loop
  CHECK(chats.streams().empty());
  failures = 0;
  CHECK(eventually([&] { return has(chats, {"a"}); }, "open"));
  const auto first = chats.streams().at("a");
  std::this_thread::sleep_for(250ms);  // longer than any pause: it counts as good
  CHECK(world.run(first->write(hello("end"))));
  CHECK(eventually([&] { return chats.streams().count("a") == 1 && chats.streams().at("a") != first; },
                   "again"));
  CHECK(world.run(ask(chats.streams().at("a"))) == "server");
  world.run(chats.stop());
}

TEST_CASE(
    "stream manager: a factory that hangs is given up and tried again; one that returns null has failed") {
  ChatWorld world;
  ChatServer server;
  world.join("a", server);
  std::atomic<int> tries{0}, cancelled{0};
  auto config = quick([&](std::shared_ptr<grpc::Channel> channel,
                          const ServiceInstance& instance) -> asio::awaitable<std::shared_ptr<Chat>> {
    const int which = ++tries;
    if (which == 1) co_return nullptr;
    if (which <= 3) {
      try {
        co_await rig::until([] { return false; });
      } catch (const std::system_error&) {
        ++cancelled;
        throw;
      }
    }
    co_return co_await open_chat(std::move(channel), instance);
  });
  config.open_timeout = 100ms;
  Chats chats(world.reg, std::move(config));
  world.run(chats.start());
  CHECK(eventually([&] { return has(chats, {"a"}); }, "open in the end"));
  CHECK(tries == 4);
  CHECK(cancelled == 2);
  world.run(chats.stop());
}

TEST_CASE("stream manager: disabled is closed; draining keeps the stream until it ends by itself") {
  ChatWorld world;
  ChatServer a("a"), b("b");
  world.join("a", a);
  world.join("b", b);
  Chats chats(world.reg, quick());
  world.run(chats.start());
  CHECK(eventually([&] { return has(chats, {"a", "b"}); }, "both"));
  const auto kept = chats.streams().at("b");
  world.set_status("a", a, "disabled");
  world.set_status("b", b, "draining");
  CHECK(eventually([&] { return has(chats, {"b"}); }, "a is closed"));
  CHECK(holds_for(300ms, [&] { return has(chats, {"b"}) && chats.streams().at("b") == kept; }));
  CHECK(world.run(ask(kept)) == "b");
  CHECK(world.run(kept->write(hello("end"))));
  CHECK(eventually([&] { return has(chats, {}); }, "b has ended"));
  CHECK(holds_for(300ms, [&] { return has(chats, {}); }));
  world.set_status("a", a, "up");
  world.set_status("b", b, "up");
  CHECK(eventually([&] { return has(chats, {"a", "b"}); }, "both again"));
  CHECK(b.opened == 2);
  world.run(chats.stop());
}

TEST_CASE("stream manager: an instance that moves gets a new stream to where it is now") {
  ChatWorld world;
  ChatServer before("before"), after("after");
  world.join("a", before);
  Chats chats(world.reg, quick());
  world.run(chats.start());
  CHECK(eventually([&] { return has(chats, {"a"}); }, "open"));
  const auto old = chats.streams().at("a");
  ServiceInstance both = chat_instance("a", before.endpoint());
  both.endpoints.insert(both.endpoints.begin(), "grpc://" + after.endpoint());
  world.run(world.reg.update_instance(both));
  CHECK(holds_for(200ms, [&] { return has(chats, {"a"}) && chats.streams().at("a") == old; }));
  world.move("a", after);
  CHECK(eventually([&] { return has(chats, {"a"}) && chats.streams().at("a") != old; }, "moved"));
  CHECK(world.run(ask(chats.streams().at("a"))) == "after");
  CHECK(eventually([&] { return before.open == 0; }, "the old one is closed"));
  world.run(chats.stop());
}

TEST_CASE("stream manager: a graceful close lets the server finish") {
  ChatWorld world;
  ChatServer server;
  world.join("a", server);
  auto config = quick();
  config.close = [](Chat& chat) { chat.writes_done(); };
  Chats chats(world.reg, std::move(config));
  world.run(chats.start());
  CHECK(eventually([&] { return has(chats, {"a"}); }, "open"));
  const auto chat = chats.streams().at("a");
  world.run(world.reg.deregister("a"));
  CHECK(eventually([&] { return has(chats, {}); }, "closed"));
  CHECK(run(world.pool, chat->finish()).ok());
  CHECK(server.half_closed == 1);
  CHECK(server.cancelled == 0);
}

TEST_CASE("stream manager: of several endpoints the one that works") {
  ChatWorld world;
  ChatServer server;
  const Port dead;
  ServiceInstance self = chat_instance("a", dead.endpoint());
  self.endpoints.push_back("grpc://" + server.endpoint());
  self.endpoints.push_back("http://127.0.0.1:1");
  world.run(world.reg.register_instance(self));
  Chats chats(world.reg, quick());
  world.run(chats.start());
  CHECK(eventually([&] { return has(chats, {"a"}); }, "open"));
  world.run(chats.stop());
}

TEST_CASE("stream manager: settings that cannot work are refused with their names") {
  ChatWorld world;
  const auto why = [&](ChatsConfig config) {
    try {
      const Chats chats(world.reg, std::move(config));
      return std::string("accepted");
    } catch (const std::system_error& error) {
      CHECK(error.code() == errc::invalid_argument);
      return std::string(error.what());
    }
  };
  CHECK(why(quick()) == "accepted");
  CHECK(why(ChatsConfig()).find("name = \"\"") != std::string::npos);
  CHECK(why(ChatsConfig("chat", nullptr, nullptr)).find("factory") != std::string::npos);
  auto config = quick();
  config.ended = nullptr;
  CHECK(why(config).find("ended") != std::string::npos);
  config = quick();
  config.retry_interval = 0ms;
  CHECK(why(config).find("retry_interval = 0 ms") != std::string::npos);
  config = quick();
  config.max_retry_interval = 1ms;
  CHECK(why(config).find("max_retry_interval = 1 ms") != std::string::npos);
}

TEST_CASE(
    "stream manager: while the store is away the streams stay; when the Registry closes they are closed") {
  ChatWorld world;
  ChatServer server;
  world.join("a", server);
  Chats chats(world.reg, quick());
  world.store.set_unavailable(true);
  CHECK(world.run(code_of(chats.start())) == errc::unavailable);
  world.store.set_unavailable(false);
  world.run(chats.start());  // may be tried again
  CHECK(eventually([&] { return has(chats, {"a"}); }, "open"));
  world.store.set_unavailable(true);
  CHECK(holds_for(300ms, [&] { return has(chats, {"a"}); }));
  const auto first = chats.streams().at("a");
  CHECK(world.run(first->write(hello("end"))));
  CHECK(eventually([&] { return has(chats, {"a"}) && chats.streams().at("a") != first; },
                   "opened where it was"));
  world.store.set_unavailable(false);
  world.run(world.reg.close());
  CHECK(eventually([&] { return has(chats, {}); }, "closed"));
  world.run(chats.stop());
}

TEST_CASE("stream manager: destroyed in every order, with everything in flight") {
  ChatServer server;
  for (int round = 0; round < 60; ++round) {
    auto io = std::make_unique<asio::io_context>();
    auto store = std::make_unique<MemoryStore>(io->get_executor());
    auto reg = std::make_unique<Registry>(*store, quick_config());
    auto chats = std::make_unique<Chats>(*reg, quick());
    for (const char* id : {"a", "b", "c"}) {
      asio::co_spawn(*io, reg->register_instance(chat_instance(id, server.endpoint())), asio::detached);
    }
    if (round % 10 != 0) asio::co_spawn(*io, chats->start(), asio::detached);
    if (round % 7 == 0) asio::co_spawn(*io, chats->stop(), asio::detached);
    io->run_for(std::chrono::milliseconds(round % 12));
    std::vector<int> order{0, 1, 2, 3};
    for (int i = 0; i < round % 24; ++i) std::next_permutation(order.begin(), order.end());
    for (const int part : order) {
      if (part == 0) chats.reset();
      if (part == 1) reg.reset();
      if (part == 2) store.reset();
      if (part == 3) io.reset();
      if (io && round % 2 == 0) io->poll();
    }
  }
  CHECK(eventually([&] { return server.open == 0; }, "no stream is left"));
}

TEST_CASE(
    "stream manager: the map is the set of live instances after any sequence of join, leave, fail, "
    "re-address") {
  std::mt19937_64 random(test_seed("stream manager"));
  const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };

  // What an instance is in truth: its server (null: crashed), and what the store says.
  struct Truth {
    std::unique_ptr<ChatServer> server;
    std::string status = "up";
  };
  ChatWorld world;
  std::map<std::string, Truth> truth;
  int serial = 0;
  const auto new_server = [&serial] {
    return std::make_unique<ChatServer>("server-" + std::to_string(++serial));
  };
  Chats chats(world.reg, quick(), observer());
  world.run(chats.start());

  std::string history;
  for (int step = 0; step < 120; ++step) {
    const std::string id = "chat-" + std::to_string(below(6));
    const auto found = truth.find(id);
    const int action = below(8);
    history += " " + id + "/" + std::to_string(action);
    if (found == truth.end()) {
      Truth& made = truth[id];
      made.server = new_server();
      world.join(id, *made.server);
    } else if (action <= 1) {  // leave, as a program that ends
      world.run(world.reg.deregister(id));
      truth.erase(found);
    } else if (action == 2) {  // fail: nobody tells the store
      found->second.server.reset();
    } else if (action == 3 && found->second.server) {  // the server ends the stream
      const auto streams = chats.streams();
      if (const auto chat = streams.find(id); chat != streams.end())
        world.run(chat->second->write(hello("end")));
    } else if (action == 4 && found->second.server) {  // restarted at the same address
      const std::string address = found->second.server->endpoint();
      found->second.server.reset();
      found->second.server = std::make_unique<ChatServer>("server-" + std::to_string(++serial), address);
      REQUIRE(found->second.server->port() != 0);
    } else if (action == 5 && found->second.server) {
      found->second.status = found->second.status == "up" ? "disabled" : "up";
      world.set_status(id, *found->second.server, found->second.status);
    } else {  // re-address, also of one that had failed
      auto next = new_server();
      world.move(id, *next);
      found->second.server = std::move(next);
      found->second.status = "up";
    }
    if (below(3) != 0) continue;  // several at once, as it comes

    const auto live = [&] {
      std::map<std::string, ChatServer*> all;
      for (const auto& [name, it] : truth) {
        if (it.server && it.status == "up") all[name] = it.server.get();
      }
      return all;
    }();
    const auto equal = [&] {
      const auto streams = chats.streams();
      if (streams.size() != live.size()) return false;
      for (const auto& [name, server] : live) {
        const auto chat = streams.find(name);
        if (chat == streams.end() || chat->second->ended() || server->open != 1) return false;
      }
      return true;
    };
    const bool right = eventually(equal, "the map equals the live instances");
    if (!right) std::fprintf(stderr, "after%s\n", history.c_str());
    REQUIRE(right);
    CHECK(equal());
  }
  world.run(chats.stop());
  CHECK(chats.streams().empty());
  for (const auto& [id, it] : truth) {
    if (it.server) CHECK(eventually([&] { return it.server->open == 0; }, "closed"));
  }
}

TEST_CASE("stream manager: on etcd: a killed server leaves the map at once, and its id with its lease") {
  if (skip_without_etcd()) return;
  World world;
  asio::thread_pool other_pool(2);
  ChatServer a("a");
  auto b = std::make_unique<ChatServer>("b");
  world.run(world.reg.register_instance(chat_instance("a", a.endpoint())));
  {
    // Another program, which will die without a word.
    etcd::Connector store(other_pool.get_executor(), connector_config(world.etcd.endpoint()));
    Registry reg(store, quick_config());
    rig::run(other_pool, reg.register_instance(chat_instance("b", b->endpoint()), 2s));
    Chats chats(world.reg, quick(), observer());
    world.run(chats.start());
    CHECK(eventually([&] { return has(chats, {"a", "b"}); }, "both"));
    b.reset();
    CHECK(eventually([&] { return has(chats, {"a"}); }, "its stream has ended"));
    world.gate.close();  // the store breaks off: nothing changes
    CHECK(holds_for(300ms, [&] { return has(chats, {"a"}); }));
    world.run(chats.stop());
  }
  CHECK(eventually([&] { return world.run(world.reg.get_service("chat")).size() == 1; },
                   "gone with its lease"));
}
