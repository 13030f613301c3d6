// The coroutine vocabulary: wake-ups, hops between executors, scopes and generators, and their destruction in
// any order.
#include <doctest/doctest.h>

#include <asio/detached.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <atomic>
#include <string>
#include <thread>

#include "registry/async/generator.hpp"
#include "registry/async/home.hpp"
#include "registry/async/mailbox.hpp"
#include "registry/async/on.hpp"
#include "registry/async/signal.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/model/errors.hpp"

using namespace registry;
using namespace registry::detail;
using namespace std::chrono_literals;

namespace {

struct Counted {
  explicit Counted(int& count) : count_(&count) { ++*count_; }
  Counted(const Counted& other) : count_(other.count_) { ++*count_; }
  ~Counted() { --*count_; }
  int* count_;
};

asio::awaitable<void> wait_and_note(Signal signal, std::string& log) {
  co_await signal.wait();
  log += "woken;";
}

asio::awaitable<std::optional<int>> take(Generator<int>& numbers) { return numbers.next(); }

asio::awaitable<int> answer(int value) { co_return value; }
asio::awaitable<int> refuse() {
  throw std::system_error(std::make_error_code(std::errc::no_link));
  co_return 0;
}
asio::awaitable<void> forever(Signal started, Counted) {
  started.raise();
  co_await Signal().wait();
}

}  // namespace

TEST_CASE("signal: raised before or during a wait wakes it, once") {
  asio::io_context io;
  std::string log;
  Signal signal;
  signal.raise();
  signal.raise();
  asio::co_spawn(io, wait_and_note(signal, log), asio::detached);
  io.run();
  CHECK(log == "woken;");
  CHECK_FALSE(signal.consume());

  io.restart();
  asio::co_spawn(io, wait_and_note(signal, log), asio::detached);
  io.poll();
  CHECK(log == "woken;");
  signal.raise();
  io.run();
  CHECK(log == "woken;woken;");
}

TEST_CASE("signal: cancelling a wait leaves the signal usable and loses nothing") {
  asio::io_context io;
  Signal signal;
  asio::cancellation_signal cancel;
  std::exception_ptr error;
  asio::co_spawn(io, signal.wait(),
                 asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr e) { error = e; }));
  io.poll();
  cancel.emit(asio::cancellation_type::terminal);
  signal.raise();
  io.run();
  CHECK(error);
  CHECK(signal.consume());
}

TEST_CASE("signal: a cancellable action instead of an abort keeps the wait going") {
  asio::io_context io;
  Signal signal;
  asio::cancellation_signal cancel;
  int cancelled = 0;
  bool done = false;
  std::function<void()> action = [&] { ++cancelled; };
  asio::co_spawn(io, signal.wait(action),
                 asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr e) {
                   CHECK_FALSE(e);
                   done = true;
                 }));
  io.poll();
  cancel.emit(asio::cancellation_type::terminal);
  io.poll();
  CHECK(cancelled == 1);
  CHECK_FALSE(done);
  signal.raise();
  io.run();
  CHECK(done);
}

TEST_CASE("signal: destroying the context destroys the waiting coroutine; raising afterwards is harmless") {
  int alive = 0;
  Signal signal, started;
  {
    asio::io_context io;
    asio::co_spawn(io, forever(started, Counted(alive)), asio::detached);
    io.poll();
    CHECK(started.consume());
    CHECK(alive > 0);
    std::string log;
    asio::co_spawn(io, wait_and_note(signal, log), asio::detached);
    io.poll();
  }
  CHECK(alive == 0);
  signal.raise();
}

TEST_CASE("signal: raises from many threads against cancels and waits") {
  asio::thread_pool pool(2);
  std::atomic<int> woken = 0;
  std::atomic<bool> stop = false;
  Signal signal;
  auto loop = [](Signal s, std::atomic<int>& count, std::atomic<bool>& end) -> asio::awaitable<void> {
    using namespace asio::experimental::awaitable_operators;
    while (!end) {
      co_await s.wait_until(std::chrono::steady_clock::now() + 50us);
      ++count;
    }
  };
  std::thread raiser([&] {
    while (!stop) signal.raise();
  });
  auto finished = std::make_shared<std::atomic<bool>>(false);
  asio::co_spawn(asio::make_strand(pool), loop(signal, woken, stop),
                 [finished](std::exception_ptr) { *finished = true; });
  while (woken < 3000) std::this_thread::yield();
  stop = true;
  raiser.join();
  signal.raise();
  pool.join();
  CHECK(*finished);
}

TEST_CASE("signal: raised by another thread while the context goes away") {
  const auto loop = [](Signal s) -> asio::awaitable<void> {
    for (;;) co_await s.wait();
  };
  int wakes = 0;
  for (int round = 0; round < 2000; ++round) {
    const Signal signal;
    std::atomic<bool> stop = false;
    std::thread raiser([&] {
      while (!stop) signal.raise();
    });
    {
      asio::io_context io;
      asio::co_spawn(io, loop(signal), asio::detached);
      for (int i = 0; i < round % 20; ++i) wakes += static_cast<int>(io.run_one());
    }
    stop = true;
    raiser.join();
  }
  CHECK(wakes > 0);
}

TEST_CASE("on: results, errors and the caller's executor") {
  asio::thread_pool there(1);
  asio::io_context here;
  const Home home = Home::strand(there.get_executor());
  const auto caller = std::this_thread::get_id();
  int value = 0;
  std::error_code failure;
  auto run = [](Home target, int& out, std::error_code& code,
                std::thread::id expected) -> asio::awaitable<void> {
    out = co_await on(target, answer(42));
    CHECK(std::this_thread::get_id() == expected);
    try {
      co_await on(target, refuse());
    } catch (const std::system_error& error) {
      code = error.code();
    }
    CHECK(std::this_thread::get_id() == expected);
  };
  asio::co_spawn(here, run(home, value, failure, caller), asio::detached);
  here.run();
  CHECK(value == 42);
  CHECK(failure == std::errc::no_link);
}

TEST_CASE("on: cancelling the caller cancels the work on its own thread") {
  asio::thread_pool there(2);
  asio::thread_pool here(2);
  int alive = 0;
  for (int round = 0; round < 300; ++round) {
    const Home home = Home::strand(there.get_executor());
    Signal started;
    asio::cancellation_signal cancel;
    std::atomic<bool> aborted = false;
    const auto strand = asio::make_strand(here);
    asio::co_spawn(
        strand, on(home, forever(started, Counted(alive))),
        asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr e) { aborted = e != nullptr; }));
    asio::post(strand, [&] { cancel.emit(asio::cancellation_type::terminal); });
    while (!aborted) std::this_thread::yield();
  }
  here.join();
  there.join();
  CHECK(alive == 0);
}

TEST_CASE("on: a caller that was cancelled before starts no work") {
  asio::io_context io;
  const Home home = Home::strand(io.get_executor());
  asio::cancellation_signal cancel;
  Signal started;
  int alive = 0;
  std::error_code code;
  auto run = [](Home target, asio::cancellation_signal& own, Signal begun, Counted counted,
                std::error_code& out) -> asio::awaitable<void> {
    own.emit(asio::cancellation_type::terminal);
    try {
      co_await on(target, forever(begun, counted));
    } catch (const std::system_error& error) {
      out = error.code();
    }
  };
  asio::co_spawn(io, run(home, cancel, started, Counted(alive), code),
                 asio::bind_cancellation_slot(cancel.slot(), [](std::exception_ptr) {}));
  io.run();
  CHECK(code == asio::error::operation_aborted);
  CHECK_FALSE(started.consume());
  CHECK(is_indeterminate(asio::error::operation_aborted));
}

TEST_CASE("on: a context that goes away aborts the caller in another context") {
  asio::io_context here;
  std::error_code code;
  Signal started;
  int alive = 0;
  {
    asio::io_context there;
    const Home home = Home::strand(there.get_executor());
    auto run = [](Home target, Signal begun, Counted counted, std::error_code& out) -> asio::awaitable<void> {
      try {
        co_await on(target, forever(begun, counted));
      } catch (const std::system_error& error) {
        out = error.code();
      }
    };
    asio::co_spawn(here, run(home, started, Counted(alive), code), asio::detached);
    here.poll();
    there.poll();
    CHECK(started.consume());
  }
  here.run();
  CHECK(code == asio::error::operation_aborted);
  CHECK(alive == 0);
}

TEST_CASE("home: outlives its context, in any order") {
  Home home;
  {
    asio::io_context io;
    home = Home::strand(io.get_executor());
    CHECK(home.post([] {}));
  }
  CHECK_FALSE(home.post([] {}));
  CHECK_FALSE(home.executor());
}

TEST_CASE("task scope: cancel ends everything, join waits for it") {
  asio::io_context io;
  const Home home = Home::strand(io.get_executor());
  int alive = 0;
  bool joined = false;
  Signal started;
  auto scope = std::make_shared<TaskScope>(home);
  home.post([&, scope] {
    for (int i = 0; i < 10; ++i) scope->spawn(forever(started, Counted(alive)));
  });
  io.poll();
  CHECK(alive > 0);
  home.post([&, scope] {
    scope->cancel();
    scope->spawn(forever(started, Counted(alive)));
    asio::co_spawn(home.executor(), scope->join(), [&](std::exception_ptr) { joined = true; });
  });
  io.run();
  CHECK(joined);
  CHECK(alive == 0);
}

TEST_CASE("generator: starts at the first use, delivers in order, ends with its error once") {
  asio::io_context io;
  int starts = 0;
  int cancels = 0;
  auto box = std::make_shared<Mailbox<int>>([&] { ++starts; }, [&] { ++cancels; });
  {
    Generator<int> numbers(box);
    CHECK(starts == 0);
    box->push(1);
    box->push(2);
    box->close(std::make_exception_ptr(std::system_error(std::make_error_code(std::errc::io_error))));
    std::string log;
    auto consume = [](Generator<int>& from, std::string& out) -> asio::awaitable<void> {
      for (int i = 0; i < 2; ++i) out += std::to_string((co_await take(from)).value_or(-1)) + ";";
      try {
        co_await from.next();
      } catch (const std::system_error& error) {
        out += "error;";
      }
      const auto last = co_await from.next();
      out += last ? "value" : "end";
    };
    asio::co_spawn(io, consume(numbers, log), asio::detached);
    io.run();
    CHECK(log == "1;2;error;end");
    CHECK(starts == 1);
    CHECK(numbers.ended());
  }
  CHECK(cancels == 1);
}

TEST_CASE("generator: destroying it ends a pending next empty; moved-from generators end") {
  asio::io_context io;
  auto box = std::make_shared<Mailbox<int>>();
  auto numbers = std::make_unique<Generator<int>>(box);
  bool empty = false;
  asio::co_spawn(io, numbers->next(),
                 [&](std::exception_ptr e, std::optional<int> value) { empty = !e && !value; });
  io.poll();
  Generator<int> moved(std::move(*numbers));
  CHECK(numbers->ended());
  numbers.reset();
  io.poll();
  CHECK_FALSE(empty);
  moved = Generator<int>();
  io.run();
  CHECK(empty);
  CHECK_FALSE(box->push(1));
}

TEST_CASE("task scope: several wait for its end, one of them until a deadline only") {
  asio::io_context io;
  detail::TaskScope scope(detail::Home::strand(io.get_executor()));
  const detail::Signal go;
  auto work = [](detail::Signal signal) -> asio::awaitable<void> { co_await signal.wait(); };
  int joined = 0;
  auto joiner = [](detail::TaskScope& of, detail::TaskScope::Deadline deadline,
                   int& count) -> asio::awaitable<void> {
    co_await of.join(deadline);
    ++count;
  };
  scope.spawn(work(go));
  const auto never = detail::TaskScope::Deadline::max();
  asio::co_spawn(io, joiner(scope, never, joined), asio::detached);
  asio::co_spawn(io, joiner(scope, never, joined), asio::detached);
  asio::co_spawn(io, joiner(scope, std::chrono::steady_clock::now(), joined), asio::detached);
  while (joined < 1) io.run_one();
  CHECK(joined == 1);
  CHECK(scope.size() == 1);
  go.raise();
  io.run();
  CHECK(joined == 3);
}

TEST_CASE("generator: wait consumes nothing and can race with a timer") {
  asio::io_context io;
  auto box = std::make_shared<Mailbox<int>>();
  Generator<int> numbers(box);
  int sum = 0;
  auto consume = [](Generator<int>& from, int& total) -> asio::awaitable<void> {
    using namespace asio::experimental::awaitable_operators;
    asio::steady_timer timer(co_await asio::this_coro::executor);
    while (!from.ended()) {
      timer.expires_after(1us);
      co_await (from.wait() || timer.async_wait(asio::use_awaitable));
      while (const auto value = from.try_next()) total += *value;
    }
  };
  asio::co_spawn(io, consume(numbers, sum), asio::detached);
  std::thread producer([&] {
    for (int i = 0; i < 2000; ++i) box->push(1);
    box->close();
  });
  io.run();
  producer.join();
  CHECK(sum == 2000);
}
