// A wake-up call between threads: any thread raises it, one coroutine waits for it. It holds nothing of Asio,
// so it may be raised from a gRPC thread, and destroyed, before or after the context of the coroutine that
// waited.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "registry/async/aborted.hpp"
#include "registry/async/wait_service.hpp"

namespace registry::detail {

/// Copies share one state. A raised signal stays raised until one wait has consumed it; a wake-up may be
/// spurious, so waiters look at what they wait for again. Thread-safe; one waiter at a time.
class Signal {
 public:
  Signal() : state_(std::make_shared<State>()) {}

  void raise() const noexcept { state_->raise(); }

  /// Consumes the signal if it is raised.
  bool consume() const noexcept {
    const std::lock_guard lock(state_->mutex);
    return std::exchange(state_->raised, false);
  }

  /// Waits until raised. Cancellation ends the wait with `operation_aborted`.
  asio::awaitable<void> wait() const { return wait_on(state_, nullptr); }

  /// Waits until raised, whatever happens: cancellation calls `on_cancel` (on the thread that cancels) and
  /// the wait goes on.
  asio::awaitable<void> wait(std::function<void()> on_cancel) const {
    return wait_on(state_, std::move(on_cancel));
  }

  /// Waits until raised or until the time has come; time_point::max() never comes. Cancellation ends the wait with
  /// `operation_aborted`.
  asio::awaitable<void> wait_until(std::chrono::steady_clock::time_point when) const {
    if (when == std::chrono::steady_clock::time_point::max()) return wait_on(state_, nullptr);
    return wait_until_on(state_, when);
  }

 private:
  struct State {
    std::mutex mutex;
    bool raised = false;
    WaitOp* waiter = nullptr;
    std::uint64_t ticket = 0;  // of the current waiter: a late cancellation must not hit its successor

    void raise() noexcept {
      WaitOp* woken = nullptr;
      {
        const std::lock_guard lock(mutex);
        woken = take();
        if (woken == nullptr) raised = true;
      }
      if (woken != nullptr) WaitService::release(*woken, {});
    }

    void abort(std::uint64_t which) noexcept {
      WaitOp* woken = nullptr;
      {
        const std::lock_guard lock(mutex);
        if (ticket == which) woken = take();
      }
      if (woken != nullptr) WaitService::release(*woken, aborted());
    }

   private:
    /// The waiter, for WaitService::release; null if there is none.
    WaitOp* take() noexcept {
      WaitOp* const op = std::exchange(waiter, nullptr);
      return op != nullptr && WaitService::take(*op) ? op : nullptr;
    }
  };

  template <class Handler>
  class Op;
  struct Initiate;

  static asio::awaitable<void> wait_on(std::shared_ptr<State> state, std::function<void()> on_cancel);
  static asio::awaitable<void> wait_until_on(std::shared_ptr<State> state,
                                             std::chrono::steady_clock::time_point when);

  std::shared_ptr<State> state_;
};

}  // namespace registry::detail

#ifndef REGISTRY_COMPILED
#include "registry/async/signal_impl.hpp"
#endif
