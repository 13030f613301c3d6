// A wake-up call between threads: any thread raises it, one coroutine waits for it. It holds nothing of Asio,
// so it may be raised from a gRPC thread, and destroyed, before or after the context of the coroutine that
// waited.
#pragma once

#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <cassert>
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
      const std::lock_guard lock(mutex);
      if (waiter != nullptr) {
        WaitService::release(*std::exchange(waiter, nullptr), {});
      } else {
        raised = true;
      }
    }

    void abort(std::uint64_t which) noexcept {
      const std::lock_guard lock(mutex);
      if (waiter == nullptr || ticket != which) return;
      WaitService::release(*std::exchange(waiter, nullptr), aborted());
    }
  };

  template <class Handler>
  class Op final : public WaitOp {
   public:
    Op(Handler handler, asio::any_io_executor executor, std::shared_ptr<State> state)
        : handler_(std::move(handler)), executor_(std::move(executor)), state_(std::move(state)) {}

    void post(std::exception_ptr result) override {
      const asio::any_io_executor executor = std::move(executor_);  // `this` may be gone before post returns
      asio::post(executor, [self = std::unique_ptr<Op>(this), result = std::move(result)]() mutable {
        Handler handler = std::move(self->handler_);
        self.reset();
        std::move(handler)(std::move(result));
      });
    }

    void detach() noexcept override {
      const std::lock_guard lock(state_->mutex);
      if (state_->waiter == this) state_->waiter = nullptr;
    }

    Handler handler_;

   private:
    asio::any_io_executor executor_;
    std::shared_ptr<State> state_;
  };

  struct Initiate {
    template <class Handler>
    void operator()(Handler&& handler, std::shared_ptr<State> state, std::function<void()> on_cancel) const {
      using Operation = Op<std::decay_t<Handler>>;
      const asio::any_io_executor executor = asio::get_associated_executor(handler);
      auto slot = asio::get_associated_cancellation_slot(handler);
      auto op = std::make_unique<Operation>(std::forward<Handler>(handler), executor, state);
      WaitService& service = WaitService::of(executor);

      const std::lock_guard lock(state->mutex);
      const std::uint64_t ticket = ++state->ticket;
      if (slot.is_connected()) {
        slot.assign([weak = std::weak_ptr<State>(state), ticket,
                     action = std::move(on_cancel)](asio::cancellation_type type) {
          if (type == asio::cancellation_type::none) return;
          if (action) {
            action();
          } else if (const auto alive = weak.lock()) {
            alive->abort(ticket);
          }
        });
      }
      if (std::exchange(state->raised, false)) {
        op.release()->post({});
        return;
      }
      assert(state->waiter == nullptr && "one waiter at a time");
      if (service.link(*op)) state->waiter = op.release();
    }
  };

  static asio::awaitable<void> wait_on(std::shared_ptr<State> state, std::function<void()> on_cancel) {
    {
      const std::lock_guard lock(state->mutex);
      if (std::exchange(state->raised, false)) co_return;
    }
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
        Initiate(), asio::use_awaitable, state, std::move(on_cancel));
  }

  static asio::awaitable<void> wait_until_on(std::shared_ptr<State> state,
                                             std::chrono::steady_clock::time_point when) {
    asio::steady_timer timer(co_await asio::this_coro::executor, when);
    timer.async_wait([weak = std::weak_ptr<State>(state)](std::error_code error) {
      const auto alive = error ? nullptr : weak.lock();
      if (alive) alive->raise();
    });
    co_await wait_on(state, nullptr);
  }

  std::shared_ptr<State> state_;
};

}  // namespace registry::detail
