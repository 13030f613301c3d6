// The code of docs/threads.md.
#include <doctest/doctest.h>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "registry/registry.hpp"
#include "rig/run.hpp"

using namespace std::chrono_literals;
using rig::code_of;

namespace {

registry::ServiceInstance user(const std::string& id) {
  registry::ServiceInstance made("user-service", id);
  made.endpoints = {"grpc://10.0.0.5:9001"};
  return made;
}

asio::awaitable<void> register_user(registry::Registry& reg) {
  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};
  co_await reg.register_instance(self, 30s);
  co_await reg.close();
}

}  // namespace

TEST_CASE("docs threads: one thread") {
  const auto serve = register_user;
  // begin: one_thread
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());  // or an etcd::Connector
  registry::Registry reg(store);
  asio::co_spawn(io, serve(reg), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);  // out of run()
  });
  io.run();  // all of it happens here; returns when there is nothing left to do
  // end: one_thread
}

namespace {

// begin: counting
struct Counter {
  int puts = 0, deletes = 0;  // of one strand: no lock, no atomic

  asio::awaitable<void> count(registry::Generator<registry::ServiceEvent> events) {
    while (auto event = co_await events.next()) {
      ++(event->type == registry::EventType::Put ? puts : deletes);
    }
  }
};
// end: counting

}  // namespace

TEST_CASE("docs threads: a pool") {
  // begin: pool
  Counter counter;
  asio::thread_pool pool(4);
  registry::MemoryStore store(pool.get_executor());
  registry::Registry reg(store);

  const auto strand = asio::make_strand(pool);
  auto users = asio::co_spawn(strand, counter.count(reg.watch("user-service")), asio::use_future);
  auto orders = asio::co_spawn(strand, counter.count(reg.watch("order-service")), asio::use_future);
  // end: pool
  asio::co_spawn(pool, reg.register_instance(user("user-1")), asio::use_future).get();
  while (asio::co_spawn(
             strand, [&]() -> asio::awaitable<int> { co_return counter.puts; }, asio::use_future)
             .get() == 0) {
    std::this_thread::yield();
  }
  asio::co_spawn(pool, reg.close(), asio::use_future).get();
  users.get();
  orders.get();
  CHECK(counter.puts == 1);
}

TEST_CASE("docs threads: a program that blocks") {
  // begin: blocking_program
  asio::thread_pool pool(1);  // its thread belongs to the registry
  registry::MemoryStore store(pool.get_executor());
  registry::Registry reg(store);

  auto registering = asio::co_spawn(pool, reg.register_instance(user("user-1")), asio::use_future);
  registering.get();  // blocks this thread, which must be none of the pool's
  auto subscribing = asio::co_spawn(pool, reg.subscribe("user-service"), asio::use_future);
  const registry::ServiceView view = subscribing.get();
  registry::RoundRobinBalancer balancer;
  const auto instance = balancer.pick(view);  // any thread, no call, no wait

  asio::co_spawn(pool, reg.close(), asio::use_future).get();
  // end: blocking_program
  REQUIRE(instance);
  CHECK(instance->id == "user-1");
}

namespace {

std::string ask_and_block(const std::string& endpoint) { return "answer of " + endpoint; }

// begin: blocking_call
// A call that blocks, made by a thread of `helpers`; the caller's executor goes on with other work meanwhile.
asio::awaitable<std::string> ask(asio::thread_pool& helpers, std::string endpoint) {
  auto answer = std::make_shared<std::string>();
  auto work = [](std::shared_ptr<std::string> to, std::string whom) -> asio::awaitable<void> {
    *to = ask_and_block(whom);  // such as a synchronous gRPC stub, with a deadline
    co_return;
  };
  auto running = work(answer, std::move(endpoint));
  // The empty slot: a cancellation waits for the answer, for nothing could end that call anyway.
  co_await asio::co_spawn(helpers, std::move(running),
                          asio::bind_cancellation_slot(asio::cancellation_slot(), asio::use_awaitable));
  co_return *answer;
}
// end: blocking_call

}  // namespace

TEST_CASE("docs threads: a blocking call beside coroutines") {
  asio::io_context io;
  asio::thread_pool helpers(2);
  CHECK(rig::run(io, ask(helpers, "grpc://10.0.0.5:9001")) == "answer of grpc://10.0.0.5:9001");
}

namespace {

// begin: wait_until
// The next event, or nothing within the time.
asio::awaitable<std::optional<registry::ServiceEvent>> next_within(
    registry::Generator<registry::ServiceEvent>& events, std::chrono::milliseconds time) {
  co_await events.wait(std::chrono::steady_clock::now() + time);
  co_return events.try_next();
}
// end: wait_until

// begin: either
// Until the service changes or somebody asks us to stop. True: it has changed.
asio::awaitable<bool> changed_before(registry::Generator<registry::ServiceEvent>& events,
                                     asio::steady_timer& stop) {
  using namespace asio::experimental::awaitable_operators;
  const auto first = co_await (events.wait() || stop.async_wait(asio::use_awaitable));
  co_return first.index() == 0;  // now events.try_next() has it
}
// end: either

}  // namespace

TEST_CASE("docs threads: waiting for one of two things loses nothing") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  auto events = reg.watch("user-service");
  CHECK_FALSE(rig::run(io, next_within(events, 1ms)));
  rig::run(io, reg.register_instance(user("user-1")));
  CHECK(rig::run(io, next_within(events, 10s)));

  asio::steady_timer stop(io, 1ms);
  CHECK_FALSE(rig::run(io, changed_before(events, stop)));
  rig::run(io, reg.deregister("user-1"));
  stop.expires_after(10s);
  CHECK(rig::run(io, changed_before(events, stop)));
  CHECK(events.try_next()->type == registry::EventType::Delete);
}

namespace {

// begin: cancellable
asio::awaitable<void> serve_until_cancelled(registry::Registry& reg) {
  bool cancelled = false;
  try {
    auto events = reg.watch("user-service");
    while (auto event = co_await events.next()) {
      // ...
    }
  } catch (const std::system_error& error) {
    if (error.code() != asio::error::operation_aborted) throw;
    cancelled = true;  // there is no co_await in a catch block
  }
  if (cancelled) {
    co_await asio::this_coro::reset_cancellation_state();  // or every co_await from here on throws at once
    co_await reg.close();
  }
}
// end: cancellable

}  // namespace

TEST_CASE("docs threads: cancelling") {
  asio::thread_pool pool(2);
  registry::MemoryStore store(pool.get_executor());
  registry::Registry reg(store);
  std::promise<void> promise;
  auto done = [&promise](std::exception_ptr error) {
    error ? promise.set_exception(error) : promise.set_value();
  };
  // begin: cancel
  const auto strand = asio::make_strand(pool);
  asio::cancellation_signal cancel;
  asio::co_spawn(strand, serve_until_cancelled(reg), asio::bind_cancellation_slot(cancel.slot(), done));

  // Later, from any thread: emitted where the coroutine runs.
  asio::post(strand, [&cancel] { cancel.emit(asio::cancellation_type::terminal); });
  // end: cancel
  promise.get_future().get();
  CHECK(rig::run(pool, code_of(reg.get_service("user-service"))) == registry::errc::closed);
}

namespace {

// begin: shutdown
asio::awaitable<void> run_service(registry::Registry& reg) {
  asio::signal_set signals(co_await asio::this_coro::executor, SIGINT, SIGTERM);
  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};
  co_await reg.register_instance(self);
  co_await signals.async_wait(asio::use_awaitable);

  co_await reg.deregister("user-1");  // clients hear of it
  // Go on answering for a moment, then stop your server; then
  co_await reg.close();  // leases are revoked, every generator ends, within close_timeout
}
// end: shutdown

}  // namespace

TEST_CASE("docs threads: shutting down") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  auto service = asio::co_spawn(io, run_service(reg), asio::use_future);
  // Once it is in the list it listens for signals.
  while (rig::run(io, reg.get_service("user-service")).empty()) continue;
  ::raise(SIGTERM);
  io.restart();
  io.run();  // comes to an end
  service.get();
}

namespace {

// begin: errors
// Registers, however long the store is away; gives up at once when trying again is of no use.
asio::awaitable<registry::Registration> register_at_last(registry::Registry& reg,
                                                         registry::ServiceInstance self) {
  asio::steady_timer pause(co_await asio::this_coro::executor);
  for (;;) {
    try {
      co_return co_await reg.register_instance(self);
    } catch (const std::system_error& error) {
      // what() says more than the code: which endpoint, which id.
      if (!registry::is_retryable(error.code())) throw;
    }
    pause.expires_after(1s);  // behind the catch, not in it
    co_await pause.async_wait(asio::use_awaitable);
  }
}
// end: errors

}  // namespace

TEST_CASE("docs threads: errors") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  CHECK(rig::run(io, register_at_last(reg, user("user-1"))).id == "user-1");
  CHECK_THROWS_AS(rig::run(io, register_at_last(reg, user("user-1"))), std::system_error);
  CHECK(rig::run(io, code_of(reg.register_instance(user("user-1")))) == registry::errc::already_registered);
  CHECK_FALSE(rig::run(io, code_of(reg.deregister("user-1"))));
}

namespace {

// begin: named
asio::awaitable<void> named(registry::Registry& reg) {
  registry::ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://10.0.0.5:9001"};  // braces before the co_await, not inside it
  self.metadata = {{"weight", "100"}, {"zone", "a"}};
  co_await reg.register_instance(self);
  const auto canary = registry::ServiceFilter().version("v2");
  const auto some = co_await reg.get_service("user-service", canary);
  co_await reg.deregister("user-1");
}
// end: named

// begin: parameters
// What a coroutine needs are its parameters: they live in its frame. A lambda's captures live in the lambda.
asio::awaitable<void> log_events(registry::Generator<registry::ServiceEvent> events,
                                 std::shared_ptr<std::vector<std::string>> log) {
  while (auto event = co_await events.next()) log->push_back(event->service.id);
}
// end: parameters

}  // namespace

TEST_CASE("docs threads: what g++ 12 compiles right") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  rig::run(io, named(reg));
  auto log = std::make_shared<std::vector<std::string>>();
  auto logging = asio::co_spawn(io, log_events(reg.watch("user-service"), log), asio::use_future);
  rig::run(io, reg.register_instance(user("user-1")));
  while (log->empty()) rig::run(io, reg.list_services());
  rig::run(io, reg.close());
  io.restart();
  io.run();
  logging.get();
  CHECK(*log == std::vector<std::string>{"user-1"});
}
