// The definitions of signal.hpp.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <cassert>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <type_traits>
#include <utility>

#include "registry/async/signal.hpp"
#include "registry/async/wait_service.hpp"
#include "registry/model/decl.hpp"

namespace registry::detail {

template <class Handler>
class Signal::Op final : public WaitOp {
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

struct Signal::Initiate {
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

REGISTRY_DECL asio::awaitable<void> Signal::wait_on(std::shared_ptr<State> state,
                                                    std::function<void()> on_cancel) {
  {
    const std::lock_guard lock(state->mutex);
    if (std::exchange(state->raised, false)) co_return;
  }
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
      Initiate(), asio::use_awaitable, state, std::move(on_cancel));
}

REGISTRY_DECL asio::awaitable<void> Signal::wait_until_on(std::shared_ptr<State> state,
                                                          std::chrono::steady_clock::time_point when) {
  asio::steady_timer timer(co_await asio::this_coro::executor, when);
  timer.async_wait([weak = std::weak_ptr<State>(state)](std::error_code error) {
    const auto alive = error ? nullptr : weak.lock();
    if (alive) alive->raise();
  });
  co_await wait_on(state, nullptr);
}

}  // namespace registry::detail
