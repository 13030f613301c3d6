// Running a coroutine to its end in a test: `int n = rig::run(io, answer());`. What it throws is thrown here;
// one that does not end within the deadline is cancelled and fails the test instead of hanging it.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace rig {

inline constexpr std::chrono::seconds patience{20};

/// Thrown by run() and until() when something did not come in time.
struct TooLate : std::runtime_error {
  TooLate() : std::runtime_error("not finished in time") {}
};

namespace detail {

template <class T>
struct Outcome {
  using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;
  std::promise<std::pair<std::exception_ptr, Value>> promise;
  std::future<std::pair<std::exception_ptr, Value>> future = promise.get_future();
  asio::cancellation_signal cancel;
};

template <class T, class Executor, class Wait>
T run_on(const Executor& target, asio::awaitable<T> work, Wait wait) {
  const auto strand = asio::make_strand(target);
  const auto outcome = std::make_shared<Outcome<T>>();
  auto end = [outcome](std::exception_ptr error, typename Outcome<T>::Value value = {}) {
    outcome->promise.set_value({std::move(error), std::move(value)});
  };
  // Spawned from the strand: a cancellation is emitted there, too.
  auto begin = [strand, outcome, work = std::move(work), end = std::move(end)]() mutable {
    asio::co_spawn(strand, std::move(work),
                   asio::bind_cancellation_slot(outcome->cancel.slot(), std::move(end)));
  };
  asio::post(strand, std::move(begin));
  const bool in_time = wait(outcome->future);
  if (!in_time) {
    asio::post(strand, [outcome] { outcome->cancel.emit(asio::cancellation_type::terminal); });
    if (!wait(outcome->future)) throw TooLate();
  }
  auto [error, value] = outcome->future.get();
  if (!in_time) throw TooLate();
  if (error) std::rethrow_exception(error);
  if constexpr (!std::is_void_v<T>) return std::move(value);
}

}  // namespace detail

/// Runs the context, on this thread, until `work` has ended.
template <class T>
T run(asio::io_context& io, asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
  return detail::run_on(io.get_executor(), std::move(work), [&io, limit](auto& future) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    const auto guard = asio::make_work_guard(io);
    if (io.stopped()) io.restart();
    while (future.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      // In small steps: another thread may run the handler that ends the work.
      const auto step = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
      if (step > deadline) return false;
      io.run_one_until(step);
    }
    return true;
  });
}

/// Waits, on this thread, until the pool has done `work`.
template <class T>
T run(asio::thread_pool& pool, asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
  return detail::run_on(pool.get_executor(), std::move(work), [limit](auto& future) {
    return future.wait_for(limit) == std::future_status::ready;
  });
}

// begin: codes
/// The code that an awaitable fails with; none if it does not.
template <class T>
asio::awaitable<std::error_code> code_of(asio::awaitable<T> work) {
  try {
    co_await std::move(work);
  } catch (const std::system_error& error) {
    co_return error.code();
  }
  co_return std::error_code();
}
// end: codes

/// Looks again and again, a millisecond apart, until the condition holds.
template <class Condition>
asio::awaitable<void> until(Condition condition, std::chrono::milliseconds limit = patience) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  asio::steady_timer timer(co_await asio::this_coro::executor);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) throw TooLate();
    timer.expires_after(std::chrono::milliseconds(1));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

/// Threads that run a context for as long as this lives; run(io, ...) may be used beside them.
class Crew {
 public:
  explicit Crew(asio::io_context& io, int threads = 2) : guard_(asio::make_work_guard(io)), io_(io) {
    if (io.stopped()) io.restart();
    for (int i = 0; i < threads; ++i) threads_.emplace_back([&io] { io.run(); });
  }
  /// Leaves what is not finished in the context.
  ~Crew() {
    guard_.reset();
    io_.stop();
    for (auto& thread : threads_) thread.join();
    io_.restart();
  }
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

 private:
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  asio::io_context& io_;
  std::vector<std::thread> threads_;
};

}  // namespace rig
