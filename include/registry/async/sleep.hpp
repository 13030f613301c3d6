// A pause in a coroutine.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>

#include "registry/async/signal.hpp"

namespace registry::detail {

/// Resumes after `pause`. Cancellation throws `operation_aborted`.
inline asio::awaitable<void> sleep_for(std::chrono::steady_clock::duration pause) {
  const Signal time_is_up;
  co_await time_is_up.wait_until(std::chrono::steady_clock::now() + pause);
}

}  // namespace registry::detail
