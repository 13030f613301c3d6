// A pause in a coroutine.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <chrono>

namespace registry::detail {

/// Resumes after `pause`. Cancellation throws `operation_aborted`.
inline asio::awaitable<void> sleep_for(std::chrono::steady_clock::duration pause) {
  asio::steady_timer timer(co_await asio::this_coro::executor, pause);
  co_await timer.async_wait(asio::use_awaitable);
}

}  // namespace registry::detail
