// Runs an awaitable on another executor and resumes the caller on its own.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/this_coro.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include "registry/async/aborted.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"

namespace registry::detail {

/// The state of one hop. Asio 1.22 would emit a cancellation on the caller's thread while the work runs on
/// another; here it is posted to where the work runs.
template <class T>
struct Hop {
  using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;
  asio::cancellation_signal cancel;
  Signal done;
  std::exception_ptr error;
  Value value{};
};

/// Completes the hop, also when the work is destroyed instead of finished.
template <class T>
class HopEnd {
 public:
  explicit HopEnd(std::shared_ptr<Hop<T>> hop) : hop_(std::move(hop)) {}
  HopEnd(HopEnd&&) noexcept = default;
  HopEnd& operator=(HopEnd&&) = delete;
  ~HopEnd() {
    if (!hop_) return;
    hop_->error = aborted();
    hop_->done.raise();
  }

  void operator()(std::exception_ptr error, typename Hop<T>::Value value = {}) {
    const auto hop = std::exchange(hop_, nullptr);
    hop->error = std::move(error);
    hop->value = std::move(value);
    hop->done.raise();
  }

 private:
  std::shared_ptr<Hop<T>> hop_;
};

/// Runs `work` on `home` and returns its result. Cancellation is passed on to the work, and its outcome
/// awaited. Throws `operation_aborted` when the home's context is gone.
template <class T>
asio::awaitable<T> on(Home home, asio::awaitable<T> work) {
  // Cancelled before: the work must not start, because nothing would end it.
  const auto state = co_await asio::this_coro::cancellation_state;
  if (state.cancelled() != asio::cancellation_type::none) throw_aborted();
  auto hop = std::make_shared<Hop<T>>();
  home.spawn(std::move(work), asio::bind_cancellation_slot(hop->cancel.slot(), HopEnd<T>(hop)));
  std::function<void()> cancel = [home, hop] {
    home.post([hop] { hop->cancel.emit(asio::cancellation_type::terminal); });
  };
  co_await hop->done.wait(std::move(cancel));
  if (hop->error) std::rethrow_exception(hop->error);
  if constexpr (!std::is_void_v<T>) co_return std::move(hop->value);
}

}  // namespace registry::detail
